"""Text on the doctor's pictures, in a font that has the letters of class names and file names."""

from __future__ import annotations

from PIL import ImageDraw

from deeplab.imaging.legend import font_for, in_letters_of

INK = (238, 239, 241)
FAINT_INK = (166, 170, 178)


def draw_text(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    *,
    size: int,
    fill: tuple[int, int, int],
    room: float | None = None,
    anchor: str = "ls",
) -> None:
    """Write one line, cut with dots if it is wider than `room` pixels; `at` is on the baseline."""
    font = font_for(text, size)
    line = whole = in_letters_of(font, text)
    keep = len(whole)
    while room is not None and keep > 1 and font.getlength(line) > room:
        keep -= 1
        line = f"{whole[:keep].rstrip()}..."
    draw.text(at, line, fill=fill, font=font, anchor=anchor)


def text_width(text: str, size: int) -> int:
    """Pixels that a line takes."""
    font = font_for(text, size)
    return round(font.getlength(in_letters_of(font, text)))
