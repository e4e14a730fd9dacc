"""Counting pixels by (label, prediction): `confusion.cpp`; the plain version is in `deeplab.evaluation.metrics`."""

from __future__ import annotations

import numpy as np
import torch

from deeplab.native.build import INT, LONG, POINTER, Kernel

DTYPES = ("uint8", "uint16", "int64")
KERNEL = Kernel(
    "deeplab.native",
    ("confusion.cpp", "share_out.hpp"),
    {"deeplab_confusion": (INT, POINTER, POINTER, *[LONG] * 7, POINTER)},
)
# below it, counting takes less than the rest of a call, and the library need not be there
LEAST_PIXELS = 1 << 16
# the counts of more pixels could overflow, and the tables of more classes leave the cache
MOST_PIXELS = (1 << 32) - 1
MOST_CLASSES = 256
MOST_SIDE = (1 << 31) - 1


def count_pixels(
    labels: np.ndarray | torch.Tensor,
    predictions: np.ndarray | torch.Tensor,
    counts: np.ndarray,
    *,
    ignore_label: int,
    side: int,
) -> bool:
    """Add the pixels of two arrays of one shape to `counts`.

    Args:
        labels, predictions: uint8, uint16 or int64; arrays of another kind or place are not counted.
        counts: int64 [classes, classes], rows labels, columns predictions.
        ignore_label: pixels with this label count nowhere.
        side: predictions must be less, even those of ignored pixels.

    Returns:
        whether they were counted; if not, nothing has changed, and the plain version counts or says why not.
    """
    arrays = [_on_cpu(each) for each in (labels, predictions)]
    if any(each is None for each in arrays):
        return False
    labels, predictions = (np.ascontiguousarray(each) for each in arrays)
    fits = LEAST_PIXELS <= labels.size <= MOST_PIXELS and len(counts) <= MOST_CLASSES and side < MOST_SIDE
    if not fits or not KERNEL.ready():
        return False
    failed = KERNEL.library.deeplab_confusion(
        labels.ctypes.data,
        predictions.ctypes.data,
        labels.itemsize,
        predictions.itemsize,
        labels.size,
        len(counts),
        # a negative one ignores nothing, as does a number that no label may have
        ignore_label if ignore_label >= 0 else MOST_SIDE,
        side,
        torch.get_num_threads(),
        counts.ctypes.data,
    )
    return not failed


def _on_cpu(values: np.ndarray | torch.Tensor) -> np.ndarray | None:
    """As a numpy array of a type that is counted, or None."""
    if str(values.dtype).removeprefix("torch.") not in DTYPES:
        return None
    if isinstance(values, torch.Tensor):
        return values.numpy() if values.device.type == "cpu" else None
    return values
