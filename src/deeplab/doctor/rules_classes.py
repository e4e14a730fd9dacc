"""Faults of the labels as a whole: class list, classes that never occur, masks that label nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deeplab.data.label_rules import Judged, absent_classes, only_class, without_labels
from deeplab.data.layouts.painting import BACKGROUND
from deeplab.doctor.class_list import ClassList
from deeplab.doctor.class_pixels import ClassPixels
from deeplab.doctor.examined import Examined
from deeplab.doctor.findings import Finding, Severity, of_files
from deeplab.doctor.readers import SourceReader


def list_findings(classes: ClassList) -> list[Finding]:
    """What is wrong with the list of names itself."""
    return [
        Finding("class-list", "error", f"{what}.", fix, (classes.origin,), 1)
        for what, fix in classes.problems
    ]


def class_findings(data: Examined, counts: Sequence[ClassPixels]) -> list[Finding]:
    """What is wrong with which classes occur where; the values must be class indices."""
    names = data.classes.names
    only = only_class(np.sum([split.pixels for split in counts], axis=0), names, "the data set")
    if only:
        return [_finding(only, "error")]
    judged = (
        absent_classes(split.pixels, names, split.split, scored=split.split in ("val", "test"))
        for split in counts
    )
    return [_finding(absent, "warning", details=(", ".join(absent.classes),)) for absent in judged if absent]


def ignored_findings(data: Examined) -> list[Finding]:
    """Masks without a labelled pixel."""
    ignore = data.classes.ignore_label
    items = data.labelled()
    empty = [item for item in items if set(data.decoded(item.mask)) == {ignore}]
    if not empty:
        return []
    everything = len(empty) == len(items)
    finding = _finding(without_labels(ignore, everything=everything), "error" if everything else "warning")
    files = tuple(data.file(item.pair.mask) for item in empty)
    return [replace(finding, files=files, count=len(files))]


def background_findings(data: Examined) -> list[Finding]:
    """Photos on which annotations draw nothing, so that all of them is background."""
    if data.classes.name(0) != BACKGROUND or not isinstance(data.reader, SourceReader):
        return []
    empty = [item for item in data.labelled() if data.decoded(item.mask).keys() == {0}]
    return of_files(
        "no-objects",
        "warning",
        [data.file(item.pair.photo) for item in empty],
        what="Nothing is drawn on a photo, so all of it is background.",
        fix="That is right if it shows no object; otherwise annotate it, or take it out of the data set.",
    )


def _finding(judged: Judged, severity: Severity, *, details: tuple[str, ...] = ()) -> Finding:
    what, fix = (f"{text[:1].upper()}{text[1:]}." for text in (judged.what, judged.fix))
    return Finding(judged.code, severity, what, fix, count=len(judged.classes), details=details)
