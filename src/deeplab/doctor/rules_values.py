"""Index masks whose values are no class indices: 0/255, off by one, greys, out of range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deeplab.doctor.class_list import ClassList, numbered
from deeplab.doctor.examined import STORED, Examined
from deeplab.doctor.findings import Finding, of_files
from deeplab.doctor.inspect import Inspected

_WHITE = 255
_LISTED_VALUES = 8
# A value in fewer of the masks than this is a slip; in more it is how the masks are coded.
_COMMON = 0.2
_WIDE_GAP = 4
_FEW_SLIPS = 2
# of a table whose ids are no indices
_MANY_ABOVE = 1 / 3


@dataclass(frozen=True)
class ValueReport:
    """What the values say.

    Attributes:
        findings: the faults.
        classes: as they were known, or as many as the masks hold.
        readable: whether the values are class indices at all, so that counting them means something.
        ignores: whether the ignore label means that.
    """

    findings: list[Finding]
    classes: ClassList
    readable: bool
    ignores: bool = True


def value_findings(data: Examined) -> ValueReport:
    """Judge the values of all index masks together; one fault explains all of them, or each file is named."""
    items = data.labelled()
    in_files = _files_with(data, items)
    values = sorted(in_files)
    classes = data.classes
    if not values:
        return ValueReport([], classes, readable=bool(items))
    if _is_binary(data, items):
        return ValueReport(_binary(data, items), classes, readable=False, ignores=False)
    known = len(classes.names) or None
    if values[0] == 1 and (known is None or values[-1] == known):
        return ValueReport(_off_by_one(data, items, values), classes, readable=False)
    limit = known if known is not None else _plausible_count(in_files, files=len(items))
    bad = [value for value in values if value >= limit]
    if bad and data.decode is None and _is_coding(in_files, bad, limit=limit, files=len(items)):
        return ValueReport(_greys(data, items, values, bad), classes, readable=False)
    if known is None:
        classes = numbered(limit, classes)
    findings = [*_out_of_range(data, items, bad, classes), *_indices_for_ids(data, items)]
    return ValueReport(findings, classes, readable=True)


def _files_with(data: Examined, items: Sequence[Inspected]) -> Counter[int]:
    """Number of masks that hold each value; ignored pixels left out."""
    found: Counter[int] = Counter()
    for item in items:
        found.update(data.decoded(item.mask).keys())
    found.pop(data.classes.ignore_label, None)
    return found


def _is_binary(data: Examined, items: Sequence[Inspected]) -> bool:
    if data.decode is not None:
        return False
    stored = set().union(*(data.decoded(item.mask) for item in items))
    return _WHITE in stored and stored <= {0, _WHITE}


def _binary(data: Examined, items: Sequence[Inspected]) -> list[Finding]:
    what = "Masks hold 0 and 255 only: black and white, not class indices 0 and 1."
    if data.classes.ignore_label == _WHITE:
        what += " 255 is the ignore label, so training would see background alone."
    return of_files(
        "mask-binary",
        "error",
        [data.file(item.pair.mask) for item in items if _WHITE in data.decoded(item.mask)],
        what=what,
        fix="Read them as two classes with data.values=[0,255] (--values 0 255), or make 255 the index 1: "
        "Image.fromarray(np.array(mask) // 255).save(path).",
    )


def _indices_for_ids(data: Examined, items: Sequence[Inspected]) -> list[Finding]:
    """Where classes are stored as ids of their own, such as Cityscapes' label ids, and the values look like indices."""
    known = len(data.classes.names)
    ids = {value for value, index in enumerate(data.decode or ()) if index < known}
    above = {value for value in ids if value >= known}
    stored = set().union(*(item.mask.counts for item in items if item.mask))
    if not items or len(above) < _MANY_ABOVE * len(ids) or not above or stored & above:
        return []
    return of_files(
        "mask-indices",
        "warning",
        [data.file(item.pair.mask) for item in items],
        what=f"The classes are stored as ids ({data.allowed}), many of them from {known} on, and no mask holds one of "
        "those: are these class indices (train ids) under the name of ids? They would be read as other classes.",
        fix="Look at the overlays; if so, give the files the ending of train ids (Cityscapes: _labelTrainIds.png).",
    )


def _off_by_one(data: Examined, items: Sequence[Inspected], values: Sequence[int]) -> list[Finding]:
    return of_files(
        "off-by-one",
        "error",
        [data.file(item.pair.mask) for item in items],
        what=f"Masks hold the values {values[0]}..{values[-1]} and never 0: classes are counted from 0.",
        fix=f"Subtract 1 and keep {data.classes.ignore_label} for ignore; or, if 0 is a background that never "
        "occurs here, give a class list that starts with it.",
    )


def _plausible_count(in_files: Counter[int], *, files: int) -> int:
    """Class count of masks that nobody described: one above the highest value that follows on from others.

    Values do not follow on if they are at least four times the count so far, or are the last one or two, far
    above the others and in less than a fifth of the masks.
    """
    count, values = 1, sorted(in_files)
    for place, value in enumerate(values):
        slip = len(values) - place <= _FEW_SLIPS and in_files[value] < _COMMON * files
        if value - count >= _WIDE_GAP and (slip or value >= 4 * count):
            break
        count = value + 1
    return count


def _is_coding(in_files: Counter[int], bad: Sequence[int], *, limit: int, files: int) -> bool:
    """Whether the values are greys or ids in place of indices: wide apart, in many masks, and the rule."""
    common = [value for value in bad if in_files[value] >= _COMMON * files]
    wide = max(bad) >= _WIDE_GAP * len(in_files) and max(bad) >= 2 * limit
    return bool(common) and wide and 2 * len(bad) >= len(in_files)


def _greys(
    data: Examined, items: Sequence[Inspected], values: Sequence[int], bad: Sequence[int]
) -> list[Finding]:
    mapping = [f"{value} -> {index}" for index, value in enumerate(values[:24])]
    return of_files(
        "mask-greys",
        "error",
        _holding(data, items, bad),
        what=f"Masks hold the values {_few(values)}: greys or ids of another numbering, not indices 0, 1, 2, ...",
        fix="Renumber the values to 0, 1, 2, ... as listed (check which class each one is) and save 8-bit PNGs; "
        "if they are class indices of a longer list, give it with --classes.",
        details=mapping,
    )


def _out_of_range(
    data: Examined, items: Sequence[Inspected], bad: Sequence[int], classes: ClassList
) -> list[Finding]:
    if not bad:
        return []
    count, ignore = len(classes.names), classes.ignore_label
    values = "value" if len(bad) == 1 else "values"
    allowed = data.allowed or f"0..{count - 1} and {ignore}"
    fix = f"Correct these pixels to 0..{count - 1}, or to {ignore} for ignore"
    if data.allowed:
        fix = "Correct these pixels to values that are allowed"
    if _WHITE in bad:
        fix += "; if 255 means ignore, give --ignore-label 255"
    elif max(bad) < count + _WIDE_GAP:
        fix += f"; if there are {max(bad) + 1} classes, name them all with --classes"
    return of_files(
        "value-out-of-range",
        "error",
        _holding(data, items, bad),
        what=f"Masks hold the {values} {_few([value % STORED for value in bad])}, but {count} classes "
        f"({classes.origin}) allow {allowed}.",
        fix=f"{fix}.",
        details=[_where(data, items, value) for value in bad[:_LISTED_VALUES]],
    )


def _holding(data: Examined, items: Sequence[Inspected], values: Sequence[int]) -> list[str]:
    wanted = set(values)
    return [data.file(item.pair.mask) for item in items if wanted & data.decoded(item.mask).keys()]


def _where(data: Examined, items: Sequence[Inspected], value: int) -> str:
    """The first pixel of the first file that holds a value, and how many files and pixels do."""
    holding = [item for item in items if value in data.decoded(item.mask)]
    pixels = sum(data.decoded(item.mask)[value] for item in holding)
    first = holding[0].pair
    wrong = data.reader.labels(first) == value
    row, column = map(int, np.unravel_index(int(wrong.argmax()), wrong.shape))
    files = "1 file" if len(holding) == 1 else f"{len(holding)} files"
    return (
        f"value {value % STORED}: first {data.file(first.mask)} at row {row}, column {column}; "
        f"{pixels} pixels in {files}"
    )


def _few(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:_LISTED_VALUES]))
    return (
        shown if len(values) <= _LISTED_VALUES else f"{shown}, ... ({len(values)} values up to {values[-1]})"
    )
