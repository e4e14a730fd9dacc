"""3x3 convolution of stride 1, channels last, by Winograd's minimal filtering F(4x4, 3x3): `winograd.cpp`.

A quarter of the products of the sum itself (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016),
and errors of float32 of the same size. One difference remains: an input that is not a finite number makes all of
the 4x4 outputs of its squares NaN, not only those that read it.
"""

from __future__ import annotations

import ctypes
import math
from typing import NamedTuple

import torch

from deeplab.native.build import INT, LONG, POINTER, REAL, Kernel

KERNEL = Kernel(
    __name__,
    {
        "deeplab_winograd_packed": (LONG, LONG, LONG),
        "deeplab_winograd_pack": (None, LONG, LONG, *[POINTER] * 3),
        "deeplab_winograd": (None, POINTER, LONG, *[POINTER] * 4, REAL, REAL, INT, POINTER),
        "deeplab_winograd_weight": (None, *[POINTER] * 5),
    },
)
# channels are whole vectors of any processor; with fewer squares, transforming the weights costs more than is won
MULTIPLE, LEAST_SQUARES = 16, 32
# of products: transforms take the rest
LEAST_GAIN = 2.0
SIDE, ENTRIES, TAPS = 4, 36, 9
Pads = tuple[tuple[int, int], tuple[int, int]]
Pair = tuple[int, int]


class Ending(NamedTuple):
    """What becomes of a convolution's finished sums: bounds for values beyond them, or x * relu6(x + 3) / 6."""

    least: float = -math.inf
    most: float = math.inf
    swish: bool = False


class Packed(NamedTuple):
    """Transformed weights: 36 entries, in them panels of outputs, in them channels; and the biases."""

    weight: torch.Tensor
    bias: torch.Tensor
    outputs: int


def suits(x: torch.Tensor, weight: torch.Tensor, *, stride: Pair, rate: Pair, pads: Pads) -> bool:
    """Whether a dense convolution of this kind is faster here.

    Rates that leave squares with few outputs inside the map are not.
    """
    if weight.shape[2:] != (3, 3) or stride != (1, 1):
        return False
    if any(count % MULTIPLE for count in weight.shape[:2]):
        return False
    size = _size(x, rate, pads)
    squares = x.shape[0] * math.prod(_squares(*each) for each in zip(size, rate, strict=True))
    gain = x.shape[0] * math.prod(size) * TAPS / (squares * ENTRIES) if squares else 0
    return squares >= LEAST_SQUARES and gain >= LEAST_GAIN and KERNEL.ready()


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Packed:
    """Weights [out, in, 3, 3] and biases [out], float32, for inputs of any size."""
    return _pack(weight.detach(), bias, turned=False)


def packed_conv(
    x: torch.Tensor,
    packed: Packed,
    *,
    rate: Pair,
    pads: Pads,
    ending: Ending,
    added: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolution of float32 [N, in, H, W], channels last, plus `added`, and its ending."""
    return _correlate(x, packed, _size(x, rate, pads), rate, (pads[0][0], pads[1][0]), ending, added)


def image_gradient(
    x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, *, rate: Pair, pads: Pads
) -> torch.Tensor:
    """The gradient with respect to x [N, in, H, W] from that of the output, channels last."""
    packed = _pack(weight.detach().transpose(0, 1), None, turned=True)
    before = (2 * rate[0] - pads[0][0], 2 * rate[1] - pads[1][0])
    return _correlate(gradient, packed, (x.shape[2], x.shape[3]), rate, before, Ending())


def weight_gradient(x: torch.Tensor, gradient: torch.Tensor, *, rate: Pair, pads: Pads) -> torch.Tensor:
    """The gradient with respect to the weights [out, in, 3, 3] from that of the output, channels last."""
    outputs, channels = gradient.shape[1], x.shape[1]
    entries = x.new_zeros(ENTRIES, outputs, channels)
    found = x.new_empty(outputs, 3, 3, channels)
    KERNEL.library.deeplab_winograd_weight(
        _sizes(x, outputs, (gradient.shape[2], gradient.shape[3]), (pads[0][0], pads[1][0]), rate),
        x.data_ptr(),
        gradient.data_ptr(),
        entries.data_ptr(),
        found.data_ptr(),
    )
    return found.permute(0, 3, 1, 2)


def _squares(extent: int, rate: int) -> int:
    """Squares along an axis: each phase of the rate has its own."""
    return sum(-(-(extent - phase) // (SIDE * rate)) for phase in range(min(rate, extent)))


def _size(x: torch.Tensor, rate: Pair, pads: Pads) -> Pair:
    height, width = (
        max(0, extent + sum(pad) - 2 * each)
        for extent, pad, each in zip(x.shape[2:], pads, rate, strict=True)
    )
    return height, width


def empty_for(shape: tuple[int, ...], dtype: torch.dtype, added: torch.Tensor | None) -> torch.Tensor:
    """What a convolution writes, channels last.

    Raises:
        RuntimeError: `added` has another shape.
    """
    if added is not None and added.shape != shape:
        raise RuntimeError(f"added is {tuple(added.shape)}, the convolution {shape}")
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)


def _pack(weight: torch.Tensor, bias: torch.Tensor | None, *, turned: bool) -> Packed:
    """`turned` has the kernel upside down."""
    # one step from tap to tap
    if weight.stride(2) != 3 * weight.stride(3):
        weight = weight.contiguous()
    outputs, channels = weight.shape[:2]
    step = weight.stride(3)
    first = weight.data_ptr() + turned * (TAPS - 1) * step * weight.element_size()
    packed = weight.new_empty(KERNEL.library.deeplab_winograd_packed(outputs, channels))
    KERNEL.library.deeplab_winograd_pack(
        outputs,
        channels,
        (ctypes.c_int64 * 3)(weight.stride(0), weight.stride(1), -step if turned else step),
        first,
        packed.data_ptr(),
    )
    return Packed(packed, weight.new_zeros(outputs) if bias is None else bias.detach(), outputs)


def _correlate(
    source: torch.Tensor,
    packed: Packed,
    size: Pair,
    rate: Pair,
    before: Pair,
    ending: Ending,
    added: torch.Tensor | None = None,
) -> torch.Tensor:
    target = empty_for((source.shape[0], packed.outputs, *size), source.dtype, added)
    KERNEL.library.deeplab_winograd(
        _sizes(source, packed.outputs, size, before, rate),
        torch.get_num_threads(),
        source.data_ptr(),
        packed.weight.data_ptr(),
        packed.bias.data_ptr(),
        None if added is None else added.data_ptr(),
        *ending,
        target.data_ptr(),
    )
    return target


def _sizes(
    source: torch.Tensor, outputs: int, size: Pair, before: Pair, rate: Pair
) -> ctypes.Array[ctypes.c_int64]:
    images, channels, height, width = source.shape
    return (ctypes.c_int64 * 11)(images, channels, height, width, outputs, *size, *before, *rate)
