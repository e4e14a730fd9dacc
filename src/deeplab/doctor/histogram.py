"""The class pixel histogram as a picture: a bar a class and split, with shares in numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from deeplab.doctor.class_pixels import ClassPixels
from deeplab.doctor.text import FAINT_INK, INK, draw_text, text_width
from deeplab.imaging.legend import PANEL

BAR_WIDTH = 640
BAR_HEIGHT = 14
BAR_GAP = 3
ROW_GAP = 14
MARGIN = 28
TITLE_HEIGHT = 76
_TEXT = 15
_TITLE = 22
_TRACK = (41, 44, 50)
_RIM = (166, 170, 178)
_FAINT_RIM = (104, 108, 116)
_MOST_NAME = 240
_NUMBERS = 150


def draw_histogram(
    counts: Sequence[ClassPixels], names: Sequence[str], palette: np.ndarray, *, title: str
) -> Image.Image:
    """Bars of each class's share of the labelled pixels, one below another for each split.

    A bar as long as its track is the largest share of all; see `bar_length`.

    Args:
        counts: one per split, the first drawn strongest.
        names: one per class.
        palette: uint8 [classes, 3].
        title: text above.

    Returns:
        RGB image; its height grows with the classes.
    """
    left = MARGIN + min(_MOST_NAME, max(text_width(name, _TEXT) for name in names)) + 36
    row = row_height(len(counts))
    size = (left + BAR_WIDTH + _NUMBERS + MARGIN, TITLE_HEIGHT + row * len(names) + MARGIN)
    image = Image.new("RGB", size, PANEL)
    draw = ImageDraw.Draw(image)
    _draw_title(draw, counts, title)
    top = max(float(split.shares.max()) for split in counts)
    for index, name in enumerate(names):
        corner = (left, TITLE_HEIGHT + index * row)
        colour = tuple(palette[index].tolist())
        _draw_name(draw, name, colour, corner, row=row)
        _draw_bars(draw, [float(split.shares[index]) for split in counts], colour, corner, top=top)
    return image


def row_height(splits: int) -> int:
    """Pixels from one class to the next."""
    return splits * BAR_HEIGHT + (splits - 1) * BAR_GAP + ROW_GAP


def bar_length(share: float, top: float) -> int:
    """Pixels of a bar: proportional, `BAR_WIDTH` for the largest share, at least 1 for any above zero."""
    if share <= 0:
        return 0
    return max(1, round(BAR_WIDTH * share / top))


def faded(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour of bars after the first: half way to the panel."""
    red, green, blue = ((a + b) // 2 for a, b in zip(colour, PANEL, strict=True))
    return red, green, blue


def _draw_title(draw: ImageDraw.ImageDraw, counts: Sequence[ClassPixels], title: str) -> None:
    draw_text(draw, (MARGIN, 34), title, size=_TITLE, fill=INK)
    splits = ", then ".join(f"{split.split} ({split.photos} masks)" for split in counts)
    ignored = ", ".join(f"{_ignored_share(split):.1%} of {split.split}" for split in counts)
    draw_text(draw, (MARGIN, 58), f"Bars: {splits}. Ignored pixels: {ignored}.", size=_TEXT, fill=FAINT_INK)


def _ignored_share(split: ClassPixels) -> float:
    return split.ignored / max(1, split.ignored + int(split.pixels.sum()))


def _draw_name(
    draw: ImageDraw.ImageDraw, name: str, colour: tuple[int, int, int], corner: tuple[int, int], *, row: int
) -> None:
    x, y = corner
    middle = y + (row - ROW_GAP) // 2
    swatch = (x - 24, middle - 7, x - 11, middle + 6)
    draw.rounded_rectangle(swatch, radius=3, fill=colour, outline=_RIM)
    draw_text(draw, (x - 34, middle + 5), name, size=_TEXT, fill=INK, room=_MOST_NAME, anchor="rs")


def _draw_bars(
    draw: ImageDraw.ImageDraw,
    shares: Sequence[float],
    colour: tuple[int, int, int],
    corner: tuple[int, int],
    *,
    top: float,
) -> None:
    x, y = corner
    for place, share in enumerate(shares):
        draw.rectangle((x, y, x + BAR_WIDTH - 1, y + BAR_HEIGHT - 1), fill=_TRACK)
        length = bar_length(share, top)
        if length:
            fill = faded(colour) if place else colour
            # the rim keeps black bars visible on the dark panel
            rim = _FAINT_RIM if place else _RIM
            outline = rim if length > 2 else None
            draw.rectangle((x, y, x + length - 1, y + BAR_HEIGHT - 1), fill=fill, outline=outline)
        ink = FAINT_INK if place else INK
        draw_text(draw, (x + BAR_WIDTH + 12, y + BAR_HEIGHT - 2), percent(share), size=_TEXT, fill=ink)
        y += BAR_HEIGHT + BAR_GAP


def percent(share: float) -> str:
    """A share with as many digits as a small one needs."""
    if share == 0:
        return "never"
    return "< 0.01 %" if share < 0.0001 else f"{100 * share:.2f} %"
