"""Turning a photo with its label map about the centre."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from deeplab.data.colours import as_bytes

Array = np.ndarray


def rotate(
    image: Array,
    label: Array,
    *,
    degrees: float,
    pad_pixel: Sequence[float],
    ignore_label: int,
    rounded: bool = True,
) -> tuple[Array, Array]:
    """Turn counter-clockwise, at the same size; corners that come from outside are padding.

    Args:
        image: [H, W, 3] RGB, 0..255, or [H, W, bands]; bilinear.
        label: [H, W] uint8; nearest neighbour.
        degrees: the angle.
        pad_pixel: what comes from outside, by channel.
        ignore_label: label of what comes from outside.
        rounded: whether pixels are bytes.

    Returns:
        (uint8 [H, W, 3], or float32 [H, W, bands] where it is not rounded RGB; uint8 [H, W]).
    """
    mask = Image.fromarray(label).rotate(degrees, Image.Resampling.NEAREST, fillcolor=ignore_label)
    if rounded and image.shape[2] == 3:
        colour = tuple(int(value + 0.5) for value in pad_pixel)
        picture = Image.fromarray(as_bytes(image)).rotate(
            degrees, Image.Resampling.BILINEAR, fillcolor=colour
        )
        return np.asarray(picture), np.asarray(mask)
    planes = [
        Image.fromarray(band).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=value)
        for band, value in zip(np.moveaxis(image, 2, 0).astype(np.float32), pad_pixel, strict=True)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=2), np.asarray(mask)
