"""The confusion matrix as a picture: each row a class as labelled, shares of its pixels by prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from deeplab.imaging.legend import font_for, in_letters_of

_INK = (32, 34, 38)
_DARKEST = np.array([16, 52, 120], np.float64)
_MOST_WITH_NUMBERS = 32
_NAME_PIXELS = 170


def draw_confusion(counts: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """Draw it; per cent in each cell of up to 32 classes. Rows of classes without a labelled pixel are empty.

    Args:
        counts: int64 [num_classes, num_classes], rows labels, columns predictions.
        classes: names, by index.

    Returns:
        RGB image.
    """
    number = len(classes)
    cell = 44 if number <= _MOST_WITH_NUMBERS else 12
    text = 14 if number <= _MOST_WITH_NUMBERS else 10
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colours = np.rint(255 - shares[..., None] * (255 - _DARKEST)).astype(np.uint8)
    grid = Image.fromarray(colours.repeat(cell, 0).repeat(cell, 1))
    if number <= _MOST_WITH_NUMBERS:
        _write_numbers(ImageDraw.Draw(grid), shares, cell=cell, size=text)
    margin = _NAME_PIXELS
    side = margin + number * cell + 12
    picture = Image.new("RGB", (side, side), (255, 255, 255))
    picture.paste(grid, (margin, margin))
    names = _names(classes, cell=cell, size=text)
    picture.paste(names, (0, margin))
    across = _names(classes, cell=cell, size=text, flush="l").transpose(Image.Transpose.ROTATE_90)
    picture.paste(across, (margin, 0))
    corner = (margin, margin, margin + number * cell, margin + number * cell)
    draw = ImageDraw.Draw(picture)
    draw.rectangle(corner, outline=_INK)
    draw.text((8, 8), "labelled below,\npredicted across, %", fill=_INK, font=font_for("a", 13))
    return picture


def _write_numbers(draw: ImageDraw.ImageDraw, shares: np.ndarray, *, cell: int, size: int) -> None:
    for row, column in np.argwhere(shares >= 0.0005).tolist():
        percent = 100 * shares[row, column]
        words = f"{percent:.0f}" if percent >= 9.95 else f"{percent:.1f}"
        fill = (255, 255, 255) if percent > 50 else _INK
        at = (column * cell + cell / 2, row * cell + cell / 2)
        draw.text(at, words, fill=fill, font=font_for(words, size), anchor="mm")


def _names(classes: Sequence[str], *, cell: int, size: int, flush: str = "r") -> Image.Image:
    """The names in a column, each at its row's middle, flush right or left."""
    column = Image.new("RGB", (_NAME_PIXELS, len(classes) * cell), (255, 255, 255))
    draw = ImageDraw.Draw(column)
    for place, name in enumerate(classes):
        font = font_for(name, size)
        words = in_letters_of(font, name)
        while len(words) > 1 and font.getlength(words) > _NAME_PIXELS - 14:
            words = words[:-1]
        start = 8 if flush == "l" else _NAME_PIXELS - 8
        draw.text((start, (place + 0.5) * cell), words, fill=_INK, font=font, anchor=f"{flush}m")
    return column
