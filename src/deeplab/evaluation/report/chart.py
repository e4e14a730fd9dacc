"""Charts drawn with Pillow alone: mean IoU by trimap width, and the reliability diagram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from deeplab.evaluation.calibration import Bin

INK = (32, 34, 38)
FAINT = (222, 224, 228)
BLUE = (38, 92, 170)
RED = (205, 70, 60)
WIDTH, HEIGHT = 720, 480
_LEFT, _TOP, _RIGHT, _BOTTOM = 80, 70, 30, 64
_TEXT = 16
_TICKS = 5


class Frame(NamedTuple):
    """A chart's paper and its scale: `place` takes data to pixels."""

    picture: Image.Image
    draw: ImageDraw.ImageDraw
    right: float
    bottom: float
    top: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of the point (x in 0..right, y in bottom..top)."""
        wide, high = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
        return _LEFT + x / self.right * wide, _TOP + (self.top - y) / (self.top - self.bottom) * high


def trimap_chart(trimap: Mapping[int, float]) -> Image.Image:
    """Mean IoU inside the band over the band's width in pixels; empty bands are left out."""
    return trimap_curves({"": trimap}, title="Mean IoU near the outlines")


def trimap_curves(curves: Mapping[str, Mapping[int, float]], *, title: str) -> Image.Image:
    """Up to three trimaps by name in one chart, each as in `trimap_chart`."""
    points = {
        name: [(width, 100 * score) for width, score in sorted(trimap.items()) if not math.isnan(score)]
        for name, trimap in curves.items()
    }
    values = [score for curve in points.values() for _, score in curve] or [0.0, 100.0]
    bottom, top = 10 * math.floor(min(values) / 10), 10 * math.ceil(max(values) / 10)
    bottom, top = bottom - 10 * (bottom == top), top
    right = max(width for trimap in curves.values() for width in trimap)
    frame = _frame(title, "band width (pixels)", "%", right=right, bottom=bottom, top=top)
    font = ImageFont.load_default(size=_TEXT)
    for (name, curve), colour, line in zip(points.items(), (BLUE, RED, INK), range(3), strict=False):
        placed = [frame.place(*point) for point in curve]
        if len(placed) > 1:
            frame.draw.line(placed, fill=colour, width=3)
        for x, y in placed:
            frame.draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour)
        corner = WIDTH - _RIGHT - 12, HEIGHT - _BOTTOM - 12 - 24 * (len(points) - 1 - line)
        frame.draw.text(corner, name, fill=colour, font=font, anchor="rb")
    return frame.picture


def reliability_chart(bins: Sequence[Bin], *, expected_error: float) -> Image.Image:
    """Accuracy by confidence, each bar of pixels as sure as it is wide; a calibrated model follows the diagonal."""
    title = f"Reliability, ECE {100 * expected_error:.2f} %"
    frame = _frame(title, "confidence", "accuracy, %", right=1.0, bottom=0.0, top=100.0)
    for one in bins:
        if one.pixels:
            left, top = frame.place(one.low, 100 * one.accuracy)
            right, bottom = frame.place(one.high, 0)
            frame.draw.rectangle((left + 1, top, right - 1, bottom), fill=BLUE)
            middle = [frame.place(one.low, 100 * one.confidence), frame.place(one.high, 100 * one.confidence)]
            frame.draw.line(middle, fill=RED, width=3)
    frame.draw.line([frame.place(0, 0), frame.place(1, 100)], fill=INK, width=1)
    return frame.picture


def _frame(title: str, x_label: str, y_label: str, *, right: float, bottom: float, top: float) -> Frame:
    picture = Image.new("RGB", (WIDTH, HEIGHT), (255, 255, 255))
    frame = Frame(picture, ImageDraw.Draw(picture), right, bottom, top)
    font = ImageFont.load_default(size=_TEXT)
    for tick in range(_TICKS + 1):
        share = tick / _TICKS
        y_value = bottom + share * (top - bottom)
        start, end = frame.place(0, y_value), frame.place(right, y_value)
        frame.draw.line([start, end], fill=FAINT)
        frame.draw.text((start[0] - 8, start[1]), f"{y_value:g}", fill=INK, font=font, anchor="rm")
        x, y = frame.place(share * right, bottom)
        frame.draw.text((x, y + 8), f"{share * right:g}", fill=INK, font=font, anchor="mt")
    frame.draw.text((12, 12), title, fill=INK, font=ImageFont.load_default(size=_TEXT + 4), anchor="lt")
    frame.draw.text((WIDTH - _RIGHT, HEIGHT - 12), x_label, fill=INK, font=font, anchor="rb")
    frame.draw.text((12, _TOP - 8), y_label, fill=INK, font=font, anchor="lb")
    return frame
