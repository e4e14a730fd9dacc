"""What labels of the right form may still fail to say: classes that never occur, one class alone, nothing at all.

The doctor reports by these rules what it counts in all masks, and every training and evaluation what it sees of them
at its start (`deeplab.data.first_look`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

IGNORED_NAMES = ("ignore", "ignored", "void", "unlabeled", "unlabelled", "__ignore__", "_ignore_")
"""On a list of classes, names that look like no class."""


class Judged(NamedTuple):
    """One thing to be said of some labels; `what` and `fix` are sentences without capital and stop.

    Attributes:
        code: short and stable.
        classes: the names that it is about.
    """

    code: str
    what: str
    fix: str
    classes: tuple[str, ...] = ()


def only_class(pixels: np.ndarray, names: Sequence[str], place: str) -> Judged | None:
    """What is to be said where one of several classes is all that is labelled.

    Args:
        pixels: integers [classes], labelled pixels of each.
        names: of the classes.
        place: what was counted, in words.
    """
    occurring = np.flatnonzero(pixels)
    if len(occurring) != 1 or len(names) < 2:
        return None
    index = int(occurring[0])
    return Judged(
        "one-class",
        f"every labelled pixel of {place} is class {index} ({names[index]})",
        "check how the masks were exported: indices that a conversion to black and white or a wrong palette turned "
        "into one value must be exported again; masks of black and white are read with data.values=[0,255] (--values 0 "
        "255)",
        (names[index],),
    )


def absent_classes(
    pixels: np.ndarray, names: Sequence[str], split: str, *, scored: bool, place: str = ""
) -> Judged | None:
    """What is to be said where some classes are labelled nowhere; arguments as `only_class`.

    Args:
        split: what was counted.
        scored: whether it is measured rather than trained on.
        place: the split in words, if more than its name is to be said.
    """
    missing = tuple(name for name, count in zip(names, pixels, strict=True) if not count)
    if not missing:
        return None
    one = len(missing) == 1
    scores = f"{'its' if one else 'their'} IoU is undefined and left out of the mean"
    effect = scores if scored else f"{'it' if one else 'they'} cannot be learned"
    some = "a class never occurs" if one else f"{len(missing)} classes never occur"
    return Judged(
        f"class-absent-{split}",
        f"{some} in {place or split}: {effect}",
        "add photos that show it, move some between the splits, or take it off the class list",
        missing,
    )


def without_labels(ignore_label: int, *, everything: bool) -> Judged:
    """What is to be said of masks without a labelled pixel; whether that is all of them."""
    return Judged(
        "all-ignored",
        f"{'every' if everything else 'a'} mask holds the ignore label {ignore_label} alone: no pixel is labelled",
        "label the photo, or take the pair out of the data set",
    )
