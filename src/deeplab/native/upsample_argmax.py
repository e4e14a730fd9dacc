"""Labels at full size from logits at low resolution: bilinear interpolation and argmax in one, `upsample_argmax.cpp`.

Logits at full size are 150 times the label map's size with 150 classes, and nearly all of them belong to classes that
cannot win. Where the kernel cannot run, the same arithmetic runs in torch, in strips of rows. Both round alike, so
labels are equal to the bit; against `torch.nn.functional.interpolate`, which rounds by layout and thread count, they
differ at most where two classes are equal up to rounding.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from deeplab.config import ResizeRule
from deeplab.native.build import INT, LONG, POINTER, Kernel

KERNEL = Kernel(
    __name__,
    {
        "deeplab_upsample_argmax": (
            INT,
            *[POINTER] * 3,
            LONG,
            POINTER,
            POINTER,
            LONG,
            *[POINTER] * 3,
            INT,
            INT,
        ),
    },
)
STRIP_BYTES = 32 << 20
MOST_NARROW = 256
MOST_CLASSES = 65536


class Axis(NamedTuple):
    """Output i lies `far[i]`, 0..1, of the way from source `low[i]` to the next one, or on the last one."""

    low: np.ndarray
    far: np.ndarray

    def part(self, first: int, last: int, *, source: int = 0) -> Axis:
        """Outputs first..last - 1, of a map that begins at position `source`."""
        return Axis(self.low[first:last] - np.int32(source), self.far[first:last])


def upsample_argmax(logits: torch.Tensor, size: tuple[int, int], rule: ResizeRule) -> torch.Tensor:
    """The class with the largest logit at every pixel of a map of `size`.

    Among equal logits the first class wins, and a NaN wins over numbers, as in `torch.argmax`.

    Args:
        logits: floats [N, C, h, w] with at least one value, in any layout; channels last is fastest. Those of 16
            bits are widened first, so that interpolation makes no ties.
        size: H and W, from 1.
        rule: how the logits' grid lies on the pixels', see `deeplab.layers.resize`.

    Returns:
        [N, H, W], uint8 up to 256 classes, else uint16, on the logits' device.

    Raises:
        ValueError: more classes than uint16 can name.
    """
    axes = [axis(source, target, rule) for source, target in zip(logits.shape[-2:], size, strict=True)]
    return argmax_along(logits, *axes)


def argmax_along(logits: torch.Tensor, rows: Axis, columns: Axis) -> torch.Tensor:
    """`upsample_argmax` at the pixels of two axes, which may be parts of a map's."""
    if logits.shape[1] > MOST_CLASSES:
        raise ValueError(f"{logits.shape[1]} classes; allowed are up to {MOST_CLASSES}, the labels of uint16")
    logits = logits.detach()
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return compiled(logits, rows, columns) if _can_run(logits) else plain(logits, rows, columns)


@lru_cache(maxsize=256)
def axis(source: int, target: int, rule: ResizeRule) -> Axis:
    """int32 and float32 [target]: where the outputs of one axis lie, rounded as torch's bilinear interpolation does."""
    places = np.arange(target, dtype=np.float64)
    if source == target:
        position = places
    elif rule == "align_corners":
        position = places * np.float32((source - 1) / max(target - 1, 1))
    elif rule == "half_pixel":
        position = (places + 0.5) * np.float32(source / target) - 0.5
    else:
        position = places * np.float32(source / target)
    position = position.clip(min=0).astype(np.float32)
    low = np.floor(position).astype(np.int32).clip(max=source - 1)
    return Axis(low, (position - low).astype(np.float32).clip(max=1))


def plain(logits: torch.Tensor, rows: Axis, columns: Axis) -> torch.Tensor:
    """`upsample_argmax` in torch: rows are interpolated, then columns, a strip of output rows at a time."""
    images, classes = logits.shape[:2]
    dtype = label_dtype(classes)
    shape = (images, len(rows.low), len(columns.low))
    labels = torch.empty(shape, dtype=dtype, device=logits.device)
    step = max(1, STRIP_BYTES // (images * classes * shape[2] * logits.element_size()))
    for start in range(0, shape[1], step):
        strip = interpolated(interpolated(logits, rows.part(start, start + step), -2), columns, -1)
        labels[:, start : start + step] = strip.argmax(1).to(dtype)
    return labels


def interpolated(x: torch.Tensor, along: Axis, dim: int) -> torch.Tensor:
    """x at the places of an axis, along rows (-2) or columns (-1)."""
    low = torch.from_numpy(along.low).to(x.device)
    far = torch.from_numpy(along.far).to(x.device, x.dtype)
    if dim == -2:
        far = far[:, None]
    high = (low + 1).clamp(max=x.shape[dim] - 1)
    return x.index_select(dim, low) * (1 - far) + x.index_select(dim, high) * far


def compiled(logits: torch.Tensor, rows: Axis, columns: Axis) -> torch.Tensor:
    """`upsample_argmax` of float32 logits on the CPU, on torch's number of threads.

    Raises:
        MemoryError: not even two rows of logits fit.
    """
    dtype = label_dtype(logits.shape[1])
    labels = torch.empty(len(logits), len(rows.low), len(columns.low), dtype=dtype)
    failed = KERNEL.library.deeplab_upsample_argmax(
        logits.data_ptr(),
        (ctypes.c_int64 * 4)(*logits.shape),
        (ctypes.c_int64 * 4)(*logits.stride()),
        len(rows.low),
        rows.low.ctypes.data,
        rows.far.ctypes.data,
        len(columns.low),
        columns.low.ctypes.data,
        columns.far.ctypes.data,
        labels.data_ptr(),
        dtype == torch.uint16,
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"labels of logits {list(logits.shape)} do not fit in memory")
    return labels


def label_dtype(classes: int) -> torch.dtype:
    """The smallest type that names every class."""
    return torch.uint8 if classes <= MOST_NARROW else torch.uint16


def _can_run(logits: torch.Tensor) -> bool:
    return (
        logits.device.type == "cpu"
        and logits.dtype == torch.float32
        and type(logits) is torch.Tensor
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and KERNEL.ready()
    )
