"""What an import did: read, inferred, consumed, filled; as a table for people and as JSON for provenance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from deeplab.model.network import DeepLab


@dataclass(frozen=True)
class ImportReport:
    """One import.

    Attributes:
        source: file name (no folder), with its `sha256` and `format`.
        variables: weight arrays of the source, each consumed; `unused`, further ones that were left aside.
        parameters: tensors of the model that were filled, and `values`, the numbers in them; `new`, further
            tensors, of a new head, that keep their random values.
        facts: what was inferred, in reading order, by name.
        notes: what a user should know: assumptions, shared arrays, things left out.
    """

    source: str
    sha256: str
    format: str
    variables: int
    parameters: int
    values: int
    facts: dict[str, str]
    notes: tuple[str, ...] = field(default=())
    unused: int = 0
    new: int = 0

    def rows(self) -> list[tuple[str, str]]:
        """Label and text of every line."""
        counts = f"{self.variables} consumed, each once" + (
            f"; {self.unused} left aside" if self.unused else ""
        )
        rest = f"{self.new} of a new head are random" if self.new else "none left over"
        filled = f"{self.parameters} tensors filled ({self.values:,} values), {rest}"
        head = [("source", self.source), ("sha256", self.sha256), ("format", self.format)]
        body = [("variables", counts), ("parameters", filled), *self.facts.items()]
        return [*head, *body, *(("note", note) for note in self.notes)]

    def to_json(self) -> dict[str, Any]:
        """For `DeepLab.provenance`: plain JSON values."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "format": self.format,
            "inferred": dict(self.facts),
            "notes": list(self.notes),
        }

    def show(self, console: Console) -> None:
        """A table on a terminal; lines 'label: text' anywhere else, one a row, never wrapped."""
        if not console.is_terminal:
            for label, text in self.rows():
                console.print(f"{label}: {text}", markup=False, highlight=False, soft_wrap=True)
            return
        # not the table's title, which would be broken at its width
        console.print(f"Import of {self.source}", style="italic", markup=False, highlight=False)
        table = Table(show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for label, text in self.rows():
            table.add_row(label, text)
        console.print(table)


class Imported(NamedTuple):
    """A model in eval mode with its weights, labels and provenance, and how it came about."""

    model: DeepLab
    report: ImportReport
