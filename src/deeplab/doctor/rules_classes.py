"""Faults of the labels as a whole: class list, classes that never occur, masks that label nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeplab.data.layouts.painting import BACKGROUND
from deeplab.doctor.class_list import ClassList
from deeplab.doctor.class_pixels import ClassPixels
from deeplab.doctor.examined import Examined
from deeplab.doctor.findings import Finding, of_files
from deeplab.doctor.readers import SourceReader


def list_findings(classes: ClassList) -> list[Finding]:
    """What is wrong with the list of names itself."""
    return [
        Finding("class-list", "error", f"{what}.", fix, (classes.origin,), 1)
        for what, fix in classes.problems
    ]


def class_findings(data: Examined, counts: Sequence[ClassPixels]) -> list[Finding]:
    """What is wrong with which classes occur where; the values must be class indices."""
    occurring = np.sum([split.pixels for split in counts], axis=0)
    if len(data.classes.names) > 1 and np.count_nonzero(occurring) == 1:
        return [_one_class(data, int(occurring.argmax()))]
    return [finding for split in counts for finding in _never(data.classes, split)]


def ignored_findings(data: Examined) -> list[Finding]:
    """Masks without a labelled pixel."""
    ignore = data.classes.ignore_label
    items = data.labelled()
    empty = [item for item in items if set(data.decoded(item.mask)) == {ignore}]
    everything = len(empty) == len(items)
    return of_files(
        "all-ignored",
        "error" if everything else "warning",
        [data.file(item.pair.mask) for item in empty],
        what=f"{'Every' if everything else 'A'} mask holds the ignore label {ignore} alone, so it teaches nothing.",
        fix="Label the photo, or take the pair out of the data set.",
    )


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


def _one_class(data: Examined, index: int) -> Finding:
    return Finding(
        "one-class",
        "error",
        f"Every labelled pixel of the data set is class {index} ({data.classes.name(index)}).",
        "Check how the masks were exported: indices that a conversion to black and white or a wrong "
        "palette turned into one value must be exported again.",
        count=1,
    )


def _never(classes: ClassList, split: ClassPixels) -> list[Finding]:
    missing = [classes.name(index) for index, pixels in enumerate(split.pixels) if not pixels]
    if not missing:
        return []
    one = len(missing) == 1
    some = "A class" if one else f"{len(missing)} classes"
    scored = f"{'its' if one else 'their'} IoU is undefined and left out of the mean"
    effect = scored if split.split in ("val", "test") else f"{'it' if one else 'they'} cannot be learned"
    return [
        Finding(
            f"class-absent-{split.split}",
            "warning",
            f"{some} never {'occurs' if one else 'occur'} in {split.split}: {effect}.",
            "Add photos that show it, move some between the splits, or take it off the class list.",
            count=len(missing),
            details=(", ".join(missing),),
        )
    ]
