"""Mask files as class indices: stored as such, renumbered by a table, or painted in colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeplab.data.source import IGNORE_LABEL, label_type
from deeplab.data.stored import Item
from deeplab.errors import UserError
from deeplab.imaging.label_maps import read_label_map
from deeplab.imaging.pictures import opened_picture, strips

NO_CLASS = -1
JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".jpe"})
Colour = tuple[int, int, int]


def read_mask(path: Path, *, wide: bool = False) -> np.ndarray:
    """An index mask, uint8 [H, W]; where it may be `wide`, uint16.

    Raises:
        UserError: unreadable, not an index mask, or values above 255 in what is not to be wide.
    """
    if path.suffix.lower() in JPEG_SUFFIXES:
        raise UserError(
            "this is a JPEG, whose compression changes values near every edge",
            fix="export the mask as PNG",
            file=path,
        )
    values = read_label_map(path)
    if wide:
        return values.astype(np.uint16)
    if values.dtype == np.uint8:
        return values
    if values.max() > IGNORE_LABEL:
        row, column = np.argwhere(values > IGNORE_LABEL)[0]
        raise UserError(
            f"value {values[row, column]} at row {row}, column {column} of a 16-bit mask",
            allowed="class indices 0..254, and 255 for ignore",
            fix="renumber the classes",
            file=path,
        )
    return values.astype(np.uint8)


@dataclass(frozen=True)
class IndexMasks:
    """Reads masks whose pixels are numbers of classes.

    Attributes:
        table: [256] integers: class of each stored value, 255 for ignore, -1 for a value that may not be; None
            where the stored values are the classes' own numbers.
        allowed: the stored values that may be, in words; empty where that is the classes' number.
        wide: whether there are more classes than masks of 8 bits have values for.
    """

    table: tuple[int, ...] | None = None
    allowed: str = ""
    wide: bool = False

    def __call__(self, item: Item) -> np.ndarray:
        """Labels of an item, uint8 [H, W]; uint16 where they are wide.

        Raises:
            UserError: unreadable, or a value that may not be.
        """
        stored = read_mask(item.mask, wide=self.wide)
        if self.table is None:
            return stored
        labels = np.array(self.table, dtype=np.int16)[stored]
        if labels.min() == NO_CLASS:
            row, column = np.argwhere(labels == NO_CLASS)[0]
            raise UserError(
                f"value {stored[row, column]} at row {row}, column {column} is no class",
                allowed=self.allowed,
                fix="correct the mask",
                file=item.mask,
            )
        return labels.astype(np.uint8)


def index_masks(classes: Sequence[str], values: tuple[int, ...] | None = None) -> IndexMasks:
    """Reads masks of these classes, stored as their own numbers, or as `values`, one a class.

    Raises:
        UserError: values that are not one a class, or not those of an 8-bit mask.
    """
    if values is None:
        return IndexMasks(wide=len(classes) > IGNORE_LABEL)
    if len(set(values)) != len(values) or len(values) != (len(classes) or len(values)):
        raise UserError(
            f"values={list(values)} for {len(classes)} classes", allowed="one value a class, each another"
        )
    if min(values) < 0 or max(values) > IGNORE_LABEL:
        raise UserError(f"values={list(values)}", allowed=f"0..{IGNORE_LABEL}, the values of an 8-bit mask")
    ignored = frozenset({IGNORE_LABEL}) - set(values)
    table = table_of({value: index for index, value in enumerate(values)}, ignored=ignored)
    said = ", ".join(map(str, values))
    return IndexMasks(table, f"{said}, and {IGNORE_LABEL} for ignore" if ignored else said)


def table_of(classes: Mapping[int, int], *, ignored: frozenset[int] = frozenset()) -> tuple[int, ...]:
    """The table of `IndexMasks`: stored value to class, and the values to ignore."""
    table = [NO_CLASS] * 256
    for value in ignored:
        table[value] = IGNORE_LABEL
    for value, index in classes.items():
        table[value] = index
    return tuple(table)


@dataclass(frozen=True)
class Painted:
    """Reads masks whose pixels have their class's colour, as RGB or as a palette.

    Attributes:
        colours: class index, or what is ignored beside so many classes, by RGB.
        source: what says so, for messages.
    """

    colours: dict[Colour, int]
    source: Path | str

    def __call__(self, item: Item) -> np.ndarray:
        """Labels of an item, uint8 [H, W]; uint16 of more classes than 255.

        Raises:
            UserError: unreadable, or a colour that is no class's.
        """
        rgb = read_colours(item.mask)
        known = {r << 16 | g << 8 | b: index for (r, g, b), index in self.colours.items()}
        labels = np.empty(rgb.shape[:2], label_type(max(known.values())))
        for start, end in strips(rgb.shape[1], rgb.shape[0]):
            red, green, blue = (rgb[start:end, :, channel].astype(np.int32) for channel in range(3))
            codes = red << 16 | green << 8 | blue
            found = classes_of(codes, known)
            if found.min() == NO_CLASS:
                row, column = np.argwhere(found == NO_CLASS)[0]
                raise UserError(
                    f"colour {tuple(rgb[start + row, column].tolist())} at row {start + row}, column {column} is no "
                    f"class of {self.source}",
                    fix="export the mask without smoothing, or add the colour where the classes are listed",
                    file=item.mask,
                )
            labels[start:end] = found
        return labels


def classes_of(values: np.ndarray, known: Mapping[int, int]) -> np.ndarray:
    """int32 of the same shape: the class of each value, -1 for a value that has none."""
    keys = np.array(sorted(known), values.dtype)
    places = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    classes = np.array([known[key] for key in keys.tolist()], np.int32)
    return np.where(keys[places] == values, classes[places], np.int32(NO_CLASS))


def read_colours(path: Path) -> np.ndarray:
    """uint8 [H, W, 3].

    Raises:
        UserError: unreadable.
    """
    try:
        with opened_picture(path) as image:
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except UserError as error:
        raise error.within(path) from error.__cause__
    # Damaged files make the decoders raise nearly anything: OSError, SyntaxError, struct.error, zlib.error.
    except Exception as error:
        raise UserError(
            f"cannot be read as a colour mask ({error})", fix="replace the file", file=path
        ) from error
