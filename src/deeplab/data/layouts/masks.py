"""Mask files as class indices: stored as such, renumbered by a table, or painted in colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeplab.data.source import IGNORE_LABEL
from deeplab.data.stored import Item
from deeplab.errors import UserError
from deeplab.imaging.label_maps import read_label_map
from deeplab.imaging.pictures import bands, opened_picture

NO_CLASS = -1
JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".jpe"})
Colour = tuple[int, int, int]


def read_mask(path: Path) -> np.ndarray:
    """An index mask, uint8 [H, W].

    Raises:
        UserError: unreadable, not an index mask, or values above 255.
    """
    if path.suffix.lower() in JPEG_SUFFIXES:
        raise UserError(
            "this is a JPEG, whose compression changes values near every edge",
            fix="export the mask as PNG",
            file=path,
        )
    values = read_label_map(path)
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
    """

    table: tuple[int, ...] | None = None
    allowed: str = ""

    def __call__(self, item: Item) -> np.ndarray:
        """Labels of an item, uint8 [H, W].

        Raises:
            UserError: unreadable, or a value that may not be.
        """
        stored = read_mask(item.mask)
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
        colours: class index, or 255 for ignore, by RGB.
        source: the file that says so, for messages.
    """

    colours: dict[Colour, int]
    source: Path

    def __call__(self, item: Item) -> np.ndarray:
        """Labels of an item, uint8 [H, W].

        Raises:
            UserError: unreadable, or a colour that is no class's.
        """
        rgb = _read_colours(item.mask)
        known = {r << 16 | g << 8 | b: index for (r, g, b), index in self.colours.items()}
        labels = np.empty(rgb.shape[:2], np.uint8)
        for start, end in bands(rgb.shape[1], rgb.shape[0]):
            red, green, blue = (rgb[start:end, :, channel].astype(np.int32) for channel in range(3))
            codes = red << 16 | green << 8 | blue
            found = classes_of(codes, known)
            if found.min() == NO_CLASS:
                row, column = np.argwhere(found == NO_CLASS)[0]
                raise UserError(
                    f"colour {tuple(rgb[start + row, column].tolist())} at row {start + row}, column {column} is no "
                    f"class of {self.source}",
                    fix="add its line there, or export the mask without smoothing",
                    file=item.mask,
                )
            labels[start:end] = found
        return labels


def classes_of(values: np.ndarray, known: Mapping[int, int]) -> np.ndarray:
    """int16 of the same shape: the class of each value, -1 for a value that has none."""
    keys = np.array(sorted(known), values.dtype)
    places = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    classes = np.array([known[key] for key in keys.tolist()], np.int16)
    return np.where(keys[places] == values, classes[places], np.int16(NO_CLASS))


def _read_colours(path: Path) -> np.ndarray:
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
