"""Polygons as pixels: a pixel belongs to a polygon if its centre does.

Coordinates are continuous, (0, 0) the photo's top left corner and (1, 1) that of the second pixel down the
diagonal, as annotation tools store them. Two polygons with a common edge then neither overlap nor leave a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Ring = Sequence[Sequence[float]] | np.ndarray
Size = tuple[int, int]

_ELLIPSE_CORNERS = 96


class Window(NamedTuple):
    """Pixels of a part of the photo, bool [h, w], whose first one is at row `top`, column `left`."""

    top: int
    left: int
    pixels: np.ndarray


def fill(rings: Sequence[Ring], size: Size, *, holes: bool = True) -> Window:
    """The pixels within the rings.

    Args:
        rings: each [(x, y), ...], three or more corners, closed by itself; may leave the photo.
        size: (height, width).
        holes: whether a ring within another is a hole in it; else all rings are joined.
    """
    corners = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
    top, left, height, width = _bounds(corners, size)
    pixels = np.zeros((height, width), bool)
    for ring in corners:
        inside = _inside(ring - (left, top), (height, width))
        pixels = pixels ^ inside if holes else pixels | inside
    return Window(top, left, pixels)


def fill_between_pixels(outside: Ring, holes: Sequence[Ring], size: Size) -> Window:
    """Pixels of a polygon whose corners are pixels, the border ones included.

    Args:
        outside: [(x, y), ...] pixel numbers.
        holes: likewise; their borders are holes too.
        size: (height, width).
    """
    corners = np.asarray(outside, np.float64).reshape(-1, 2)
    top, left, height, width = _bounds([corners, corners + 1], size)
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for ring, value in [(outside, 1), *((hole, 0) for hole in holes)]:
        draw.polygon([(x - left, y - top) for x, y in ring], fill=value, outline=value)
    return Window(top, left, np.array(canvas))


def rectangle(x0: float, y0: float, x1: float, y1: float, *, degrees: float = 0, about: Ring = ()) -> Ring:
    """The ring of a rectangle, turned clockwise by `degrees` about the point `about[0]`, or its centre."""
    centre = about[0] if about else ((x0 + x1) / 2, (y0 + y1) / 2)
    return _turned([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], centre, degrees)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, *, degrees: float = 0) -> Ring:
    """A ring about (x, y) with these radii, turned clockwise by `degrees`."""
    angle = np.arange(_ELLIPSE_CORNERS) * (2 * np.pi / _ELLIPSE_CORNERS)
    ring = np.stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)], axis=1)
    return _turned(ring, (x, y), degrees)


def thick_line(points: Ring, width: float) -> list[Ring]:
    """Rings that together are a line through the points: blunt at its ends, round where it bends."""
    corners = np.asarray(points, np.float64).reshape(-1, 2)
    rings: list[Ring | np.ndarray] = [ellipse(x, y, width / 2, width / 2) for x, y in corners[1:-1]]
    for start, end in pairwise(corners):
        length = float(np.hypot(*(end - start)))
        if length:
            aside = np.array([start[1] - end[1], end[0] - start[0]]) * (width / 2 / length)
            rings.append(np.stack([start + aside, end + aside, end - aside, start - aside]))
    return rings or [rectangle(*corners[0], *corners[0])]


def _bounds(rings: Sequence[np.ndarray], size: Size) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part of the photo that holds all rings."""
    every = np.concatenate(rings)
    if not np.isfinite(every).all():
        raise ValueError("a corner that is no number")
    limit = (size[1], size[0])
    left, top = np.clip(np.floor(every.min(axis=0)), 0, limit).astype(int).tolist()
    right, bottom = np.clip(np.ceil(every.max(axis=0)), 0, limit).astype(int).tolist()
    return top, left, bottom - top, right - left


def _inside(ring: np.ndarray, size: Size) -> np.ndarray:
    """Whether each pixel's centre lies within the ring, bool [height, width]."""
    height, width = size
    # a crossing flips every pixel to its right, and the running sum counts the flips
    flips = np.zeros((height, width + 1), bool)
    centres = np.arange(height) + 0.5
    for (x0, y0), (x1, y1) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
        first, last = np.searchsorted(centres, (min(y0, y1), max(y0, y1)))
        if first < last:
            crossing = x0 + (centres[first:last] - y0) * ((x1 - x0) / (y1 - y0))
            column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.intp)
            flips[np.arange(first, last), column] ^= True
    return np.logical_xor.accumulate(flips[:, :width], axis=1)


def _turned(ring: Ring, centre: Sequence[float], degrees: float) -> Ring:
    turn = np.deg2rad(degrees)
    # y points down, so this turns clockwise for a viewer
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return (np.asarray(ring, np.float64) - centre) @ matrix + centre
