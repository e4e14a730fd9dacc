"""What commands show: progress on a terminal, quiet lines otherwise, and tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from deeplab.evaluation.metrics import ConfusionMatrix


# of a pipe, which has no width: rows stay whole for grep
UNBOUNDED = 10_000


class PhotoProgress(NamedTuple):
    """A bar on a terminal; otherwise only the lines."""

    bar: Progress
    task: TaskID

    @property
    def is_terminal(self) -> bool:
        """Whether somebody watches the bar."""
        return self.bar.console.is_terminal

    def advance(self) -> None:
        """One photo is done."""
        self.bar.advance(self.task)

    def line(self, text: str) -> None:
        """Print `text` as it is, above the bar."""
        self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def photo_progress(total: int, what: str) -> Iterator[PhotoProgress]:
    """Progress over `total` photos, on the error stream."""
    with _bar(Console(stderr=True)) as bar:
        yield PhotoProgress(bar, bar.add_task(what, total=total, note=""))


@contextmanager
def pixel_progress(name: str) -> Iterator[Callable[[str, int, int], None]]:
    """A function to call with what is being done, the pixels that are, and those of the whole; shows megapixels."""
    console = Console(stderr=True)
    shown = TextColumn("{task.fields[done]:.1f} of {task.fields[whole]:.1f} MP")
    columns = TextColumn("{task.description}"), BarColumn(), shown, TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None, done=0.0, whole=0.0)

        def show(what: str, done: int, total: int) -> None:
            bar.update(
                task,
                description=f"{name}: {what}",
                completed=done,
                total=total,
                done=done / 1e6,
                whole=total / 1e6,
            )

        yield show


@contextmanager
def byte_progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A function to call with the bytes that are there and those of the whole, as a download goes on."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_table(table: Table, *narrower: Table) -> None:
    """Print `table`, or the first of the `narrower` ones that the terminal is wide enough for, with no cell cut.

    Where none is, see `fitting`; rows are whole lines of `table` where nobody's terminal is.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=UNBOUNDED)
    choice = next((each for each in (table, *narrower) if _width(each, console) <= console.width), table)
    console.print(fitting(choice, console))


def fitting(table: Table, console: Console) -> RenderableType:
    """`table` where `console` is wide enough for it, else each row as lines "column  cell", under the same title."""
    # above: within a table a title is broken at the table's width
    title = [Text(str(table.title), style="italic")] if table.title else []
    table.title = None
    if _width(table, console) <= console.width:
        return Group(*title, table)
    rows: list[RenderableType] = []
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(style="dim", no_wrap=True)
        row.add_column(overflow="fold")
        for column, cell in zip(table.columns, cells, strict=True):
            row.add_row(column.header, cell, style="bold" if column is table.columns[0] else None)
        rows += [Text(), row] if rows else [row]
    return Group(*title, *rows)


def _width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(max_width=UNBOUNDED)).maximum


def print_scores(confusion: ConfusionMatrix, classes: Sequence[str], *, title: str) -> None:
    """IoU by class name, mean IoU and pixel accuracy; classes without ground truth show a dash."""
    table = Table(title=title)
    table.add_column("class")
    table.add_column("IoU", justify="right")
    for name, value in zip(classes, confusion.iou_per_class(), strict=True):
        table.add_row(name, f"{value:.4f}" if value == value else "-")
    table.add_section()
    table.add_row("mean IoU", f"{confusion.mean_iou():.4f}")
    table.add_row("pixel accuracy", f"{confusion.pixel_accuracy():.4f}")
    print_table(table)
    unseen = [name for name, pixels in zip(classes, confusion.counts.sum(axis=1), strict=True) if not pixels]
    if unseen:
        print(
            f"warning: no pixel is labelled {', '.join(unseen)}: the scores say nothing of it; fix: look at the masks "
            "with deeplab data check",
            file=sys.stderr,
        )


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )
