"""`deeplab data check`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from deeplab.cli.stored_data import RECOGNISED, StoredData
from deeplab.errors import MOST_PROCESSES, refuse_outside

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from deeplab.doctor.findings import Finding
    from deeplab.doctor.run import Checked, Watcher

SHOWN_FILES = 3
SHOWN_DETAILS = 12
NO_WEIGHT = "-"


def check(
    root: Path,
    *,
    stored: StoredData = RECOGNISED,
    num_classes: int | None = None,
    ignore_label: int = 255,
    train: str | None = None,
    val: str | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    workers: int | None = None,
) -> int:
    """Find what is wrong with a data set before training starts: by file, with the fix.

    Prints findings, pixels by class and suggested class weights, and writes them into a folder with a
    histogram, overlays to look at and the faulty masks. The exit code is 1 if there are errors, 0 if there
    are warnings at most.

    Parameters
    ----------
    root:
        Folder with images/ and masks/, or in the VOC, Cityscapes, ADE20K or CamVid layout, or any other
        format that train takes.
    num_classes:
        How many classes there are, if they have no names; the ignore label is not one of them.
    ignore_label:
        Value of pixels that are no class.
    train:
        Text file with the training photos' names, one a line, or a split's name. Default: the layout's own
        lists or folders.
    val:
        Likewise for validation.
    output:
        Folder for the report. Default: NAME-check in the current folder.
    workers:
        Processes that read pictures. Default: one a core.
    """
    from rich.console import Console

    from deeplab.doctor.found import Expected
    from deeplab.doctor.report import write_report
    from deeplab.doctor.run import check_data

    if workers is not None:
        refuse_outside(1, MOST_PROCESSES, __workers=workers)
    if num_classes is not None:
        refuse_outside(1, 65_536, __num_classes=num_classes)
    refuse_outside(0, 65_535, __ignore_label=ignore_label)
    expected = Expected(stored.storage, num_classes, stored.keep, stored.rest, ignore_label, train, val)
    with _progress() as watcher:
        checked = check_data(root, expected, workers=workers, watcher=watcher)
    folder = output or Path(f"{root.resolve().name}-check")
    written = write_report(checked, folder)
    console = Console(highlight=False)
    _print_findings(console, checked)
    _print_classes(checked)
    _print_end(console, checked, written)
    return 0 if checked.passed else 1


@contextmanager
def _progress() -> Iterator[Watcher]:
    """A bar on a terminal from when the number of pairs is known, nothing elsewhere."""
    from deeplab.cli.tables import photo_progress
    from deeplab.doctor.run import Watcher

    with ExitStack() as stack:

        class Bar(Watcher):
            def on_start(self, pairs: int) -> None:
                self.progress = stack.enter_context(photo_progress(pairs, "checking"))

            def on_pair(self) -> None:
                self.progress.advance()

        yield Bar()


def _print_findings(console: Console, checked: Checked) -> None:
    from rich import box
    from rich.table import Table

    if not checked.findings:
        return
    table = Table(box=box.HORIZONTALS, show_header=False, show_lines=True)
    table.add_column("finding", no_wrap=True)
    table.add_column("what, where and the fix", overflow="fold")
    for finding in checked.findings:
        table.add_row(_finding_head(finding), _finding_text(finding))
    console.print(table)


def _finding_head(finding: Finding) -> Text:
    from rich.text import Text

    style = "bold red" if finding.severity == "error" else "bold yellow"
    head = Text(finding.severity, style=style).append(f"\n{finding.code}", "default not bold")
    if finding.files:
        unit = "file" if len(finding.files) == 1 else "files"
        head.append(f"\n{len(finding.files)} {unit}", style="default not bold")
    return head


def _finding_text(finding: Finding) -> Text:
    from rich.text import Text

    text = Text(finding.what)
    if finding.files:
        more = len(finding.files) - SHOWN_FILES
        text.append(f"\n{', '.join(finding.files[:SHOWN_FILES])}", style="cyan")
        text.append(f" and {more} more" if more > 0 else "")
    for line in finding.details[:SHOWN_DETAILS]:
        text.append(f"\n  {line}", style="dim")
    if len(finding.details) > SHOWN_DETAILS:
        text.append(f"\n  and {len(finding.details) - SHOWN_DETAILS} more lines in check.json", style="dim")
    return text.append("\nFix: ", style="bold").append(finding.fix, "default")


def _print_classes(checked: Checked) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from deeplab.cli.tables import print_table
    from deeplab.doctor.class_list import colours_of
    from deeplab.doctor.histogram import percent

    if not checked.counts or checked.weights is None:
        return
    classes = checked.data.classes
    table = Table(box=box.SIMPLE_HEAD, title=f"classes ({classes.origin})")
    table.add_column("class")
    for split in checked.counts:
        table.add_column(f"{split.split} pixels", justify="right")
        table.add_column(f"{split.split} masks", justify="right")
    table.add_column("weight", justify="right")
    for index, colour in enumerate(colours_of(classes).tolist()):
        swatch = Text("■ ", style=f"rgb({','.join(map(str, colour))})").append(classes.name(index), "default")
        cells = [
            cell
            for split in checked.counts
            for cell in (percent(float(split.shares[index])), str(split.photos_with[index]))
        ]
        occurs = checked.counts[0].pixels[index] > 0
        table.add_row(swatch, *cells, f"{checked.weights[index]:.3f}" if occurs else NO_WEIGHT)
    print_table(table)


def _print_end(console: Console, checked: Checked, written: list[Path]) -> None:
    from deeplab.doctor.report import rounded
    from deeplab.doctor.rules_bands import pixels_yaml

    if checked.weights is not None:
        split = checked.counts[0].split
        console.print(f"Class weights by median frequency balancing over {split}; paste into a recipe:")
        line = f"loss:\n  class_weights: [{', '.join(rounded(checked.weights))}]\n"
        console.print(line, markup=False, soft_wrap=True)
    if checked.pixels is not None:
        console.print("What reads these photos as they are stored; paste into a recipe:")
        console.print(pixels_yaml(checked.pixels), markup=False, soft_wrap=True)
    pairs, seconds = len(checked.data.items), max(checked.seconds, 1e-9)
    unlisted = (
        f", {checked.unlisted} left out (on no list, or a test split without masks)"
        if checked.unlisted
        else ""
    )
    console.print(
        f"{pairs} pairs in layout {checked.layout}{unlisted}, {seconds:.1f} s ({pairs / seconds:.0f} pairs/s)"
    )
    console.print(f"Look at {', '.join(str(path) for path in written)}", soft_wrap=True)
    errors = sum(finding.severity == "error" for finding in checked.findings)
    warnings = len(checked.findings) - errors
    if errors:
        console.print(f"[bold red]FAILED[/]: {_counted(errors, 'error')}, {_counted(warnings, 'warning')}")
    else:
        console.print(f"[bold green]passed[/]: {_counted(warnings, 'warning')}")


def _counted(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"
