"""Expansion, depthwise convolution and projection in one pass, channels last: `separable.cpp`, for inference.

Equal to the convolutions one after another, up to the order of sums. What lies between them never reaches memory:
MobileNets' hidden channels are most of what their convolutions read and write.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch

from deeplab.config import ResizeRule
from deeplab.native.build import INT, LONG, POINTER, Kernel
from deeplab.native.dense_conv import Packed, Place
from deeplab.native.upsample_argmax import axis
from deeplab.native.winograd import Ending, empty_for

KERNEL = Kernel(
    __name__,
    {"deeplab_separable": (INT, POINTER, *[LONG] * 4, INT, *[POINTER] * 10)},
)


class Upsampled(ctypes.Structure):
    """A small map that is interpolated to x's size, and where its outputs lie, as the kernel reads it."""

    _fields_ = (
        ("map", ctypes.c_void_p),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("row_low", ctypes.c_void_p),
        ("column_low", ctypes.c_void_p),
        ("row_far", ctypes.c_void_p),
        ("column_far", ctypes.c_void_p),
    )


class Filter(NamedTuple):
    """A depthwise convolution's weights, a row for each tap, and its biases; float32."""

    weight: torch.Tensor
    bias: torch.Tensor
    kernel: int


def by_tap(weight: torch.Tensor, bias: torch.Tensor | None) -> Filter:
    """Weights [C, 1, K, K] and biases [C]; K is 3 or 5."""
    channels, _, kernel, _ = weight.shape
    biases = torch.zeros(channels)
    if bias is not None:
        biases.copy_(bias.detach())
    return Filter(weight.detach().float().reshape(channels, -1).t().contiguous(), biases, kernel)


def separable_conv(
    x: torch.Tensor,
    expand: Packed | None,
    depthwise: Filter,
    project: Packed | None,
    *,
    place: Place,
    endings: tuple[Ending, Ending, Ending],
    added: torch.Tensor | None = None,
    behind: tuple[torch.Tensor, ResizeRule] | None = None,
) -> torch.Tensor:
    """`project(depthwise(expand(x)))`, plus `added`; each step has its ending.

    Args:
        x: float32 or bfloat16 [N, C, H, W], channels last; so is all that is given besides.
        expand, project: packed 1x1 convolutions; None where there is none.
        place: how the depthwise kernel moves.
        endings: of the three, in their order.
        added: of the result's shape, channels last.
        behind: a map that x's channels come behind, resized to x's size by a rule; there is no expansion then.

    Returns:
        [N, out, H', W'] of x's dtype, channels last. In bfloat16 sums are float32, and so is what is expanded.

    Raises:
        RuntimeError: `added` has another shape.
    """
    hidden = len(depthwise.bias)
    rows, columns = place.tables(x, (depthwise.kernel, depthwise.kernel))
    outputs = hidden if project is None else project.outputs
    target = empty_for((x.shape[0], outputs, len(rows), len(columns)), x.dtype, added)
    KERNEL.library.deeplab_separable(
        (ctypes.c_int64 * 6)(*x.shape, len(rows), len(columns)),
        hidden,
        outputs,
        depthwise.kernel,
        torch.get_num_threads(),
        x.dtype == torch.bfloat16,
        x.data_ptr(),
        None if behind is None else upsampled(*behind, (x.shape[2], x.shape[3])),
        pointers(expand),
        pointers(depthwise),
        pointers(project),
        (ctypes.c_float * 9)(*(each for ending in endings for each in ending)),
        None if added is None else added.data_ptr(),
        rows.ctypes.data,
        columns.ctypes.data,
        target.data_ptr(),
    )
    return target


def upsampled(small: torch.Tensor, rule: ResizeRule, size: tuple[int, int]) -> Any:
    """A map [N, C, h, w], channels last, that is resized to a size, for kernels."""
    _, channels, height, width = small.shape
    rows, columns = axis(height, size[0], rule), axis(width, size[1], rule)
    tables = (table.ctypes.data for table in (rows.low, columns.low, rows.far, columns.far))
    return ctypes.byref(Upsampled(small.data_ptr(), height, width, channels, *tables))


def pointers(layer: Packed | Filter | None) -> ctypes.Array[ctypes.c_void_p]:
    """Weights and biases for kernels; nulls where there is no layer."""
    found = (None, None) if layer is None else (layer.weight.data_ptr(), layer.bias.data_ptr())
    return (ctypes.c_void_p * 2)(*found)
