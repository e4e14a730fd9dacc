"""How many pixels each class has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deeplab.doctor.examined import STORED, Examined
from deeplab.doctor.inspect import Inspected

_SPLIT_ORDER = ("train", "all", "val", "test")


@dataclass(frozen=True)
class ClassPixels:
    """Counts of one split.

    Attributes:
        split: its name.
        photos: number of masks counted.
        pixels: int64 [classes].
        photos_with: int64 [classes], masks that hold the class.
        pixels_beside: int64 [classes], labelled pixels of the masks that hold the class.
        ignored: pixels of the ignore label.
    """

    split: str
    photos: int
    pixels: np.ndarray
    photos_with: np.ndarray
    pixels_beside: np.ndarray
    ignored: int

    @property
    def shares(self) -> np.ndarray:
        """float64 [classes], share of the labelled pixels; all 0 if there are none."""
        return self.pixels / max(1, int(self.pixels.sum()))


def count_classes(data: Examined) -> list[ClassPixels]:
    """Counts of every split that has index masks, training first; values out of range are left out."""
    by_split: dict[str, list[Inspected]] = {}
    for item in data.labelled():
        by_split.setdefault(item.pair.split, []).append(item)
    order = sorted(by_split, key=lambda split: (_rank(split), split))
    return [_count(data, split, by_split[split]) for split in order]


def _rank(split: str) -> int:
    return _SPLIT_ORDER.index(split) if split in _SPLIT_ORDER else len(_SPLIT_ORDER)


def _count(data: Examined, split: str, items: Sequence[Inspected]) -> ClassPixels:
    classes = len(data.classes.names)
    table = np.zeros((len(items), 2 * STORED), np.int64)
    for row, item in enumerate(items):
        for value, count in data.decoded(item.mask).items():
            table[row, value] += count
    ignored = int(table[:, data.classes.ignore_label].sum())
    table[:, data.classes.ignore_label] = 0
    table = table[:, :classes]
    present = table > 0
    return ClassPixels(
        split,
        photos=len(items),
        pixels=table.sum(axis=0),
        photos_with=present.sum(axis=0),
        pixels_beside=(present * table.sum(axis=1, keepdims=True)).sum(axis=0),
        ignored=ignored,
    )
