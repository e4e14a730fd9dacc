"""Label maps from drawn regions: annotation tools store outlines and masks by class name, not pixels.

Regions are painted in the order given, later ones on top. What no region covers is "background".
"""

from __future__ import annotations

import json
import math
import mmap
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab.data.layouts.polygons import Window
from deeplab.data.source import ignore_label_of, label_type
from deeplab.data.stored import Item
from deeplab.data.upright import stored
from deeplab.errors import UserError
from deeplab.system.reading import foreign, read_bytes

LEAST_POINTS = 3
NO_NUMBER = "a coordinate is missing or no number"
TOO_FEW = f"it has fewer than {LEAST_POINTS} points"
OUTSIDE = "it lies outside of the photo"
NO_SIZE = (0, 0)
"""Of a photo whose size is not known yet."""
BACKGROUND = "background"
BACKGROUND_NAMES = frozenset({BACKGROUND, "_background_", "__background__"})
# of a photo that is believed, and what regions may cover: pixels, or so many times the photo
SMALL_PHOTO, LEAST_ROOM, MOST_TIMES = 1 << 24, 1 << 30, 8
IGNORE_NAMES = frozenset({"ignore", "ignored", "__ignore__", "_ignore_", "void"})


class Region(NamedTuple):
    """A class name and, asked for only when painted, the pixels.

    place: what messages call it, beside its file.
    fault: why it paints nothing; empty if it does.
    """

    name: str
    cover: Callable[[], Window]
    place: str = ""
    fault: str = ""


class Picture(NamedTuple):
    """(height, width) and what is drawn on it, from the back to the front."""

    size: tuple[int, int]
    regions: Sequence[Region]


@dataclass(frozen=True)
class ClassList:
    """Class names by index, and what unpainted pixels are.

    `index` knows each name, also those that mean background (0) or ignore.
    """

    classes: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> ClassList:
        """Background, then the names in their order, without those that mean background or ignore."""
        own = (name for name in dict.fromkeys(names) if name.lower() not in BACKGROUND_NAMES | IGNORE_NAMES)
        return cls((BACKGROUND, *own))

    @property
    def unpainted(self) -> int:
        """Background's index, or the label to ignore where the list has none."""
        return self.classes.index(BACKGROUND) if BACKGROUND in self.classes else self.ignored

    @property
    def ignored(self) -> int:
        """The label to ignore."""
        return ignore_label_of(len(self.classes))

    def index(self, name: str, *, file: Path) -> int:
        """The value to paint.

        Raises:
            UserError: not a class; it names `file`.
        """
        if name in self.classes:
            return self.classes.index(name)
        if name.lower() in BACKGROUND_NAMES:
            return self.unpainted
        if name.lower() in IGNORE_NAMES:
            return self.ignored
        raise UserError(
            f"the label {name!r} is no class",
            allowed=", ".join(self.classes),
            fix="correct the label, or add it to the names",
            file=file,
        )


@dataclass(frozen=True)
class Painter:
    """Reads the labels of an item by painting what `picture` finds in its annotation.

    Attributes:
        picture: the item's regions; picklable.
        largest_first: whether small regions go on top, for formats without an order.
    """

    picture: Callable[[Item], Picture]
    classes: ClassList
    largest_first: bool = False

    def __call__(self, item: Item) -> np.ndarray:
        """uint8 [H, W]; uint16 of more classes than 255.

        Raises:
            UserError: the annotation is broken or has an unknown class; it names the file.
        """
        with as_written(item.mask):
            size, regions = self.picture(item)
        _refuse_another_size(size, item)
        labels = np.full(size, self.classes.unpainted, label_type(len(self.classes.classes)))
        # of the region that is seen there
        areas = np.full(size, size[0] * size[1], np.int32) if self.largest_first else None
        room = max(LEAST_ROOM, MOST_TIMES * labels.size)
        for region in regions:
            if region.fault:
                continue
            index = self.classes.index(region.name, file=item.mask)
            with as_written(f"{item.mask}: {region.place}" if region.place else item.mask):
                cover = region.cover()
            room -= cover.pixels.size
            if room < 0:
                raise UserError(
                    "its regions cover the photo too often", fix="export it again", file=item.mask
                )
            # a mask may stick out on every side
            top, left = max(cover.top, 0), max(cover.left, 0)
            pixels = cover.pixels[top - cover.top :, left - cover.left :]
            place = np.s_[top : top + pixels.shape[0], left : left + pixels.shape[1]]
            seen = pixels[: labels[place].shape[0], : labels[place].shape[1]]
            if areas is not None:
                area = min(int(np.count_nonzero(cover.pixels)), labels.size)
                seen = seen & (areas[place] >= area)
                areas[place][seen] = area
            labels[place][seen] = index
        return labels


def _refuse_another_size(size: tuple[int, int], item: Item) -> None:
    """Of a large photo only, as a smaller one costs little, and is looked at when there is a photo beside it."""
    small = min(size) >= 1 and size[0] * size[1] <= SMALL_PHOTO
    if small or (
        min(size) >= 1 and item.photo != item.mask and sorted(size) == sorted(stored(item.photo).size)
    ):
        return
    raise UserError(
        f"it is of a photo of {size[1]}x{size[0]}, which {item.photo.name} is not",
        fix="export it again",
        file=item.mask,
    )


def unpainted(regions: Iterable[Region], file: Path) -> tuple[str, ...]:
    """Each region that paints nothing, in words, with its file and place."""
    return tuple(f"{region.place} in {file}: {region.fault}" for region in regions if region.fault)


def outline_fault(points: Any, size: tuple[int, int] = NO_SIZE) -> str:
    """Why an outline [(x, y), ...] encloses nothing of a photo of `size`, height and width; empty if it may."""
    if not points:
        return "it has no points"
    try:
        pairs = all(len(point) == 2 for point in points)
        if not pairs or not math.isfinite(sum(map(sum, points))):
            return NO_NUMBER
    except (TypeError, OverflowError):
        return NO_NUMBER
    if len(points) < LEAST_POINTS:
        return TOO_FEW
    return OUTSIDE if min(size) > 0 and _is_outside(points, size) else ""


def _is_outside(points: Any, size: tuple[int, int]) -> bool:
    x, y = zip(*points, strict=True)
    return max(x) < 0 or min(x) > size[1] or max(y) < 0 or min(y) > size[0]


def read_json(path: Path) -> Any:
    """The file's content.

    Raises:
        UserError: unreadable or no JSON.
    """
    with foreign(path, "cannot be read as JSON", fix="export it again"):
        stored = read_bytes(path)
        return json.loads(stored.decode(_encoding(stored)))


def class_name(value: Any) -> str:
    """A class's name as text; one that is a number is called by its digits, and "" is none at all."""
    named = isinstance(value, int | float | str) and not isinstance(value, bool)
    return unicodedata.normalize("NFC", str(value).strip()) if named else ""


def _encoding(stored: bytes) -> str:
    """UTF-8 or UTF-16; else GB 18030, in which tools on Chinese systems write (it holds GBK)."""
    try:
        stored.decode(encoding := json.detect_encoding(stored))
    except UnicodeDecodeError:
        return "gb18030"
    return encoding


def mentions(path: Path, *keys: bytes) -> bool:
    """Whether all of these bytes stand somewhere in the file: quicker than parsing, for a look only."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return all(data.find(key) >= 0 for key in keys)


def as_written(path: str | os.PathLike[str]) -> AbstractContextManager[None]:
    """See `foreign`: where an annotation lacks a key, or has a value of another kind."""
    return foreign(path, "is not of the form that its tool writes", fix="export it again")


def no_area(path: Path, kind: str, allowed: Mapping[str, Any] | Sequence[str]) -> UserError:
    """What to raise for a shape that covers no pixels."""
    return UserError(
        f"a shape of type {kind!r} has no area to label",
        allowed=", ".join(allowed),
        fix="delete it, or draw it as a polygon",
        file=path,
    )
