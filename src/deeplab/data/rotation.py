"""Turning a photo with its label map about the centre."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from deeplab.data.colours import as_bytes

Array = np.ndarray


def rotate(
    image: Array, label: Array, *, degrees: float, pad_pixel: Sequence[float], ignore_label: int
) -> tuple[Array, Array]:
    """Turn counter-clockwise, at the same size; corners that come from outside are padding.

    Args:
        image: [H, W, 3] RGB, 0..255; bilinear.
        label: [H, W] uint8; nearest neighbour.
        degrees: the angle.
        pad_pixel: RGB of what comes from outside, rounded.
        ignore_label: label of what comes from outside.

    Returns:
        (uint8 [H, W, 3], uint8 [H, W]).
    """
    colour = tuple(int(value + 0.5) for value in pad_pixel)
    picture = Image.fromarray(as_bytes(image)).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=colour)
    mask = Image.fromarray(label).rotate(degrees, Image.Resampling.NEAREST, fillcolor=ignore_label)
    return np.asarray(picture), np.asarray(mask)
