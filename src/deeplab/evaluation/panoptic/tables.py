"""Panoptic measures as tables in percent, and as what JSON holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from deeplab.evaluation.panoptic.accumulator import Accumulator
from deeplab.evaluation.panoptic.coco import PanopticFiles

DIGITS = 2


def print_detailed_results(
    measure: Accumulator, is_thing: Sequence[bool] | None = None, *, print_digits: int = 3
) -> None:
    """Print `measure.detailed_results` as a table in percent, of `print_digits` digits after the point of 1."""
    means = measure.detailed_results(is_thing)
    table = _table("", next(iter(means.values())))
    _add_means(table, means, digits=max(print_digits - 2, 0))
    Console().print(table)


def scores_table(measure: Accumulator, files: PanopticFiles, *, title: str) -> Table:
    """Every valid category by name, then the means over all, things and stuff."""
    means = measure.detailed_results(files.is_thing(measure.ids.num_categories))
    table = _table("class", means["All"], title=title)
    for entry in scores_by_class(measure, files):
        table.add_row(entry["name"], *_percents(entry, measure, digits=DIGITS), _kind(entry["isthing"]))
    table.add_section()
    _add_means(table, means, digits=DIGITS)
    return table


def scores(measure: Accumulator, files: PanopticFiles) -> dict[str, Any]:
    """What JSON holds: "All", "Things" and "Stuff" as `Accumulator.detailed_results` gives them, and "classes"."""
    means = measure.detailed_results(files.is_thing(measure.ids.num_categories))
    return {**means, "classes": scores_by_class(measure, files)}


def scores_by_class(measure: Accumulator, files: PanopticFiles) -> list[dict[str, Any]]:
    """id, name, isthing (None if no category has that id), the measures, and the totals of valid categories."""
    columns = measure.measures_per_category() | dict(zip(measure.total_names, measure.totals, strict=True))
    entries = []
    for index in map(int, measure.valid_categories().nonzero()[0]):
        known = files.categories.get(index)
        name, thing = (known.name, known.isthing) if known else (f"category {index}", None)
        values = {column: float(values[index]) for column, values in columns.items()}
        entries.append({"id": index, "name": name, "isthing": thing, **values})
    return entries


def _table(first: str, means: dict[str, float], *, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in means:
        header = "classes" if name == "n" else f"{name.upper()} %"
        table.add_column(header, justify="right")
    return table


def _add_means(table: Table, means: dict[str, dict[str, float]], *, digits: int) -> None:
    for name, row in means.items():
        values = [f"{100 * value:.{digits}f}" for key, value in row.items() if key != "n"]
        table.add_row(name, *values, f"{row['n']:.0f}")


def _percents(entry: dict[str, Any], measure: Accumulator, *, digits: int) -> list[str]:
    return [f"{100 * entry[name]:.{digits}f}" for name in measure.measure_names]


def _kind(thing: bool | None) -> str:
    return {True: "thing", False: "stuff", None: "-"}[thing]
