"""Depthwise atrous convolution, channels last: `depthwise.cpp` as an autograd function.

oneDNN (torch 2.13) leaves its fast code where strides, rates and bfloat16 meet: forward it is up to 70 times slower
than memory allows at rates from 8, backward at every rate above 1. And its gradients of the weights are wrong, by more
than their own size, for bfloat16, channels last, rates above 1 and batches of 1 or 2; `kept_right` avoids that.
Equal to `torch.nn.functional.conv2d` up to the order of sums; weights and sums are float32 even where images are
bfloat16.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from deeplab.native.build import INT, LONG, POINTER, Kernel

KERNEL = Kernel(
    __name__,
    {
        "deeplab_depthwise": (INT, POINTER, INT, INT, *[POINTER] * 6),
        "deeplab_depthwise_weight": (INT, POINTER, INT, INT, *[POINTER] * 4, LONG, POINTER, POINTER),
    },
)
KERNELS = (3, 5)
# from this rate on the forward pass alone is faster than oneDNN's
LEAST_RATE = 6
DTYPES = (torch.float32, torch.bfloat16)
# parts of an image whose shares of the weights' gradient are summed apart, so that threads have enough to do
MOST_BANDS = 4
Pads = tuple[tuple[int, int], tuple[int, int]]


def wins(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    stride: tuple[int, int],
    rate: tuple[int, int],
    dtype: torch.dtype,
) -> bool:
    """Whether `depthwise_conv` can run, and is faster than oneDNN.

    Eager calls on the CPU, channels last, in `dtype` (that of x, or autocast's).
    """
    trains = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    useful = max(*rate, *stride) > 1 if trains else max(rate) >= LEAST_RATE
    return (
        useful
        and x.device.type == "cpu"
        and dtype in DTYPES
        and weight.dtype == torch.float32
        and weight.shape[1] == 1
        and weight.shape[0] == x.shape[1]
        and weight.shape[2] == weight.shape[3]
        and weight.shape[2] in KERNELS
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and type(x) is torch.Tensor
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and KERNEL.ready()
    )


def dtype_of(x: torch.Tensor) -> torch.dtype:
    """What a convolution of x computes in on the CPU: autocast's dtype, or x's own."""
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return x.dtype


def kept_right(x: torch.Tensor, *, rate: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """x, in a memory layout for which oneDNN's gradients of a depthwise convolution's weights are right."""
    wrong = x.device.type == "cpu" and dtype == torch.bfloat16 and max(rate) > 1 and torch.is_grad_enabled()
    return x.contiguous() if wrong else x


def depthwise_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    stride: tuple[int, int],
    rate: tuple[int, int],
    pads: Pads,
) -> torch.Tensor:
    """Depthwise convolution where it `wins`.

    Args:
        x: float32 or bfloat16 [N, C, H, W], channels last.
        weight: float32 [C, 1, K, K], K 3 or 5.
        bias: float32 [C] or None.
        stride, rate: vertical and horizontal.
        pads: ((top, bottom), (left, right)) zeros around the image.

    Returns:
        [N, C, H', W'] of x's dtype, channels last.
    """
    return _Depthwise.apply(x, weight, bias, stride, rate, pads)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: tuple[int, int],
        rate: tuple[int, int],
        pads: Pads,
    ) -> torch.Tensor:
        kernel = weight.shape[-1]
        axes = tuple(zip(x.shape[-2:], stride, rate, pads, strict=True))
        ctx.axes, ctx.has_bias = axes, bias is not None
        ctx.save_for_backward(x, weight)
        tables = [taps(size, kernel, step, each, pad) for size, step, each, pad in axes]
        return _correlate(x, weight, bias, tables)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        kernel = weight.shape[-1]
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            tables = [taps_back(size, kernel, step, each, pad) for size, step, each, pad in ctx.axes]
            of_x = _correlate(gradient, weight, None, tables)
        if ctx.needs_input_grad[1]:
            tables = [taps(size, kernel, step, each, pad) for size, step, each, pad in ctx.axes]
            of_weight = _weight_gradient(x, gradient, kernel, tables)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3), dtype=torch.float32)
        return of_x, of_weight, of_bias, None, None, None


@lru_cache(maxsize=1024)
def taps(size: int, kernel: int, stride: int, rate: int, pad: tuple[int, int]) -> np.ndarray:
    """int32 [outputs, kernel]: the input position that each tap reads along one axis, -1 in the padding."""
    outputs = (size + sum(pad) - (kernel - 1) * rate - 1) // stride + 1
    positions = np.arange(outputs)[:, None] * stride + np.arange(kernel) * rate - pad[0]
    return np.where((positions >= 0) & (positions < size), positions, -1).astype(np.int32)


@lru_cache(maxsize=1024)
def taps_back(size: int, kernel: int, stride: int, rate: int, pad: tuple[int, int]) -> np.ndarray:
    """int32 [size, kernel]: the output position that reads an input position by each tap, -1 if there is none."""
    outputs = len(taps(size, kernel, stride, rate, pad))
    places = np.arange(size)[:, None] + pad[0] - np.arange(kernel) * rate
    found = (places % stride == 0) & (places >= 0) & (places < outputs * stride)
    return np.where(found, places // stride, -1).astype(np.int32)


def _correlate(
    source: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, tables: list[np.ndarray]
) -> torch.Tensor:
    images, channels = source.shape[:2]
    height, width = (len(table) for table in tables)
    shape = (images, channels, height, width)
    target = torch.empty(shape, dtype=source.dtype, memory_format=torch.channels_last)
    by_tap = weight.detach().reshape(channels, -1).t().contiguous()
    offset = None if bias is None else bias.detach().float().contiguous()
    rows, columns = tables
    KERNEL.library.deeplab_depthwise(
        (ctypes.c_int64 * 6)(images, channels, *source.shape[-2:], height, width),
        weight.shape[-1],
        source.dtype == torch.bfloat16,
        source.data_ptr(),
        by_tap.data_ptr(),
        None if offset is None else offset.data_ptr(),
        rows.ctypes.data,
        columns.ctypes.data,
        target.data_ptr(),
    )
    return target


def _weight_gradient(
    source: torch.Tensor, gradient: torch.Tensor, kernel: int, tables: list[np.ndarray]
) -> torch.Tensor:
    images, channels = source.shape[:2]
    bands = min(MOST_BANDS, gradient.shape[-2])
    partial, line = torch.empty(2, images * bands, kernel * kernel, channels)
    rows, columns = tables
    KERNEL.library.deeplab_depthwise_weight(
        (ctypes.c_int64 * 6)(images, channels, *source.shape[-2:], *gradient.shape[-2:]),
        kernel,
        source.dtype == torch.bfloat16,
        source.data_ptr(),
        gradient.data_ptr(),
        rows.ctypes.data,
        columns.ctypes.data,
        bands,
        partial.data_ptr(),
        line.data_ptr(),
    )
    return partial.sum(0).t().reshape(channels, 1, kernel, kernel)
