"""A training crop in one pass from bytes to bytes: `fast_crop.cpp`, see `deeplab.native.build`.

Equal, value for value, to `deeplab.data.augment.crop_of_scaled` with its pixels rounded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from deeplab.data.resize import nearest, neighbours, scaled_size
from deeplab.native.build import LONG, POINTER, Kernel

Array = np.ndarray
Size = tuple[int, int]
PLACE, AXIS = (POINTER, POINTER, LONG), (LONG, POINTER, POINTER)
KERNEL = Kernel(
    __name__,
    {"deeplab_fast_crop": (None, *PLACE, *AXIS, *AXIS, LONG, ctypes.c_char_p, LONG, LONG, *[POINTER] * 2)},
)


def can_crop(image: Array, label: Array) -> bool:
    """Whether `crop_of_bytes` takes them: bytes both, the photo RGB; and there is a compiler."""
    return image.dtype == label.dtype == np.uint8 and image.shape[2] == 3 and KERNEL.ready()


def crop_of_bytes(
    image: Array,
    label: Array,
    *,
    scale: float,
    crop_size: Size,
    offset: Size,
    flip: bool,
    pad_pixel: Sequence[float],
    ignore_label: int,
) -> tuple[Array, Array]:
    """Scale, pad, crop and flip without computing more than the crop.

    Args:
        image: uint8 [H, W, 3].
        label: uint8 [H, W].

    The others are those of `deeplab.data.augment.crop_of_scaled`.

    Returns:
        (uint8 [*crop_size, 3], uint8 [*crop_size]), C-contiguous.
    """
    image, label = np.ascontiguousarray(image), np.ascontiguousarray(label)
    size = scaled_size(*label.shape, scale=scale)
    (row_places, row_weights), (column_places, column_weights) = (
        _sampling(source, target, np.arange(start, min(start + side, target)))
        for source, target, start, side in zip(label.shape, size, offset, crop_size, strict=True)
    )
    if flip:
        column_places, column_weights = column_places[:, ::-1].copy(), column_weights[::-1].copy()
    height, width = row_weights.size, column_weights.size
    crop = np.empty((*crop_size, 3), dtype=np.uint8)
    labels = np.empty(crop_size, dtype=np.uint8)
    KERNEL.library.deeplab_fast_crop(
        image.ctypes.data,
        label.ctypes.data,
        label.shape[1],
        height,
        row_places.ctypes.data,
        row_weights.ctypes.data,
        width,
        column_places.ctypes.data,
        column_weights.ctypes.data,
        crop_size[1] - width if flip else 0,
        bytes((*(int(value + 0.5) for value in pad_pixel), ignore_label)),
        *crop_size,
        crop.ctypes.data,
        labels.ctypes.data,
    )
    return crop, labels


def _sampling(source: int, target: int, index: Array) -> tuple[Array, Array]:
    """(int64 [3, n] first, second and nearest neighbour; float32 [n] weight of the second)."""
    low, high, weight = neighbours(source, target, index)
    return np.array((low, high, nearest(source, target, index)), dtype=np.int64), weight
