"""The legend beneath an overlay: a colour swatch, the name and the share of each class.

Entries stand in a grid, largest share first, in text scaled to the picture. Pillow's built-in font draws
ASCII; other names use a common system font that has their letters, or lose their accents if none does.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, sqrt

from PIL import Image, ImageDraw, ImageFont

PANEL = (27, 29, 33)
_INK = (238, 239, 241)
_FAINT_INK = (166, 170, 178)
# Looked up by name wherever the system keeps its fonts: Linux, Windows, macOS, the last four for CJK.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf", "arial.ttf", "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc", "msyh.ttc", "malgun.ttf", "PingFang.ttc",
)  # fmt: skip
# No font has a picture for this non-character, so what is drawn is the font's "missing" box.
_NO_CHARACTER = "\uffff"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Entry:
    """One line: a name, its share in 0..1 (None for a remark), its colour (None for an empty swatch)."""

    name: str
    share: float | None
    colour: Colour | None


def text_height(width: int, height: int) -> int:
    """Text size in pixels that reads well beneath a picture of that size."""
    return max(12, min(96, round(sqrt(width * height) / 38)))


def draw_legend(entries: Sequence[Entry], *, width: int, text_size: int) -> Image.Image:
    """Draw the panel.

    Args:
        entries: in the order to show, at least one.
        width: wanted width in pixels; the panel is wider only where one short name would not fit.
        text_size: pixels, see `text_height`.

    Returns:
        RGB image, at least `width` wide.
    """
    width = max(width, 16 * text_size)
    room = width - 4 * text_size
    lines = [_line(entry, text_size, room=room) for entry in entries]
    step_x = 3 * text_size + max(ceil(line.font.getlength(line.text)) for line in lines)
    step_y = round(1.7 * text_size)
    columns = max(1, (width - text_size) // step_x)
    rows = ceil(len(lines) / columns)
    panel = Image.new("RGB", (width, 3 * text_size + (rows - 1) * step_y), PANEL)
    draw = ImageDraw.Draw(panel)
    for i, line in enumerate(lines):
        corner = (text_size + (i % columns) * step_x, text_size + (i // columns) * step_y)
        _draw_line(draw, line, corner, size=text_size)
    return panel


@dataclass(frozen=True)
class _Line:
    """An entry ready to draw: the name cut to fit, and a font that has its letters."""

    name: str
    share: str
    colour: Colour | None
    font: Font

    @property
    def text(self) -> str:
        return f"{self.name}  {self.share}"


def _line(entry: Entry, size: int, *, room: int) -> _Line:
    """The line for an entry; a name too long for `room` pixels is cut with dots."""
    # no letter is narrower than a pixel: more of them are not even measured
    name = " ".join(entry.name.split())[: max(room, 1)]
    font = font_for(name, size)
    name = in_letters_of(font, name)
    line = _Line(name, _percent(entry.share), entry.colour, font)
    keep = len(name)
    while keep > 1 and font.getlength(line.text) > room:
        keep -= 1
        line = replace(line, name=f"{name[:keep].rstrip()}...")
    return line


def _draw_line(draw: ImageDraw.ImageDraw, line: _Line, corner: tuple[int, int], *, size: int) -> None:
    x, y = corner
    swatch = (x, y, x + round(1.4 * size), y + size)
    # The rim shows dark colours on the dark panel.
    draw.rounded_rectangle(
        swatch, radius=size // 5, fill=line.colour, outline=_FAINT_INK, width=max(1, size // 14)
    )
    baseline = (x + 2 * size, y + round(0.86 * size))
    draw.text(baseline, line.name, fill=_INK, font=line.font, anchor="ls")
    gap = line.font.getlength(f"{line.name}  ")
    draw.text((baseline[0] + gap, baseline[1]), line.share, fill=_FAINT_INK, font=line.font, anchor="ls")


def _percent(share: float | None) -> str:
    if share is None:
        return ""
    return "<0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def font_for(name: str, size: int) -> Font:
    """The built-in font, or the first system font that has all letters of `name`."""
    builtin = _builtin_font(size)
    if name.isascii():
        return builtin
    system = (font for file in _SYSTEM_FONTS if (font := _system_font(file, size)) is not None)
    return next((font for font in system if _has_letters(font, name)), builtin)


@lru_cache(maxsize=8)
def _builtin_font(size: int) -> Font:
    return ImageFont.load_default(size=size)


@lru_cache(maxsize=32)
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except (OSError, ImportError):
        return None


def _has_letters(font: Font, name: str) -> bool:
    missing = bytes(font.getmask(_NO_CHARACTER))
    return all(c.isascii() or bytes(font.getmask(c)) != missing for c in set(name))


def in_letters_of(font: Font, name: str) -> str:
    """The name unchanged if `font` can draw it, else without accents and with ? for foreign letters."""
    if name.isascii() or _has_letters(font, name):
        return name
    plain = unicodedata.normalize("NFKD", name)
    return "".join(c if c.isascii() else "?" for c in plain if not unicodedata.combining(c))
