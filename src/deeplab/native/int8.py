"""Convolutions for inference in 8 bits, channels last, by `int8_conv.cpp`: float32 in and out, products of bytes.

What a 1x1 or dense convolution reads becomes bytes on a grid that was chosen from photos, in the same pass; its weights
have a factor for each output. Sums are integers, and exact: compiled and plain code give the same bits, up to the
depthwise convolutions between them, which stay in float32.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
import torch.nn.functional as F

from deeplab.config import ResizeRule
from deeplab.native.build import INT, LONG, POINTER, Kernel
from deeplab.native.dense_conv import Place
from deeplab.native.separable import Filter, upsampled
from deeplab.native.winograd import Ending, empty_for

KERNEL = Kernel(
    __name__,
    {
        "deeplab_int8_bits": (LONG,),
        "deeplab_int8_lanes": (LONG,),
        "deeplab_int8_pack": (None, LONG, LONG, LONG, POINTER, POINTER),
        "deeplab_int8_dense": (None, POINTER, LONG, LONG, *[POINTER] * 6),
        "deeplab_int8_separable": (INT, POINTER, LONG, LONG, LONG, *[POINTER] * 12),
    },
)
# products that one instruction adds up
QUAD = 4
# of the widest channel's range, what others have at least: those that calibration never saw alive, too
LEAST_WIDTH = 0.02
LINEAR = Ending()


class Range(NamedTuple):
    """Of each channel that a convolution reads, the lowest, the highest and the mean value: float32 [in] all."""

    low: torch.Tensor
    high: torch.Tensor
    mean: torch.Tensor


class Layer(ctypes.Structure):
    """A convolution as the kernel reads it."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("factor", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("inverse", ctypes.c_void_p),
        ("zero", ctypes.c_void_p),
        ("least", ctypes.c_float),
        ("most", ctypes.c_float),
        ("swish", ctypes.c_int64),
        ("taps", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
    )


class Packed(NamedTuple):
    """A convolution in 8 bits.

    Attributes:
        weight: int8 [out, taps, in].
        laid_out: the same as the kernel reads it; empty where there is none.
        factor, bias: float32, by output, of whole vectors of these: what a sum is multiplied by and what is added then.
        inverse, zero: the same by channel: the byte of a value is value * inverse + zero, rounded.
        kernel: height and width.
    """

    weight: torch.Tensor
    laid_out: torch.Tensor
    factor: torch.Tensor
    bias: torch.Tensor
    inverse: torch.Tensor
    zero: torch.Tensor
    kernel: tuple[int, int]

    def layer(self, ending: Ending) -> Layer:
        """With its ending, for the kernel; it points into this."""
        outputs, count, channels = self.weight.shape
        tensors = (self.laid_out, self.factor, self.bias, self.inverse, self.zero)
        return Layer(*(each.data_ptr() for each in tensors), *ending, count, channels, outputs)


def bits() -> int:
    """Of weights: 8, or 7 where the processor adds up pairs of products in 16 bits, which would overflow."""
    return int(KERNEL.library.deeplab_int8_bits()) if KERNEL.ready() else 8


def pack(weight: torch.Tensor, bias: torch.Tensor | None, values: Range) -> Packed:
    """Weights [out, in, K, L] and biases [out] of a convolution that reads `values`."""
    # zero, which padding is, has a byte of its own
    low, high = values.low.double().clamp(max=0), values.high.double().clamp(min=0)
    width = high - low
    most = width.max() if width.max() > 0 else torch.ones(())
    # halfway, by ratio, to one step for all channels: what a channel's steps win, its weights lose
    step = (width.clamp(min=LEAST_WIDTH * most) * most).sqrt() / 255
    zero = (-low / width.clamp(min=LEAST_WIDTH * most) * 255).round()
    outputs, channels, height, columns = weight.shape
    exact = weight.detach().double().permute(0, 2, 3, 1).reshape(outputs, -1, channels) * step
    largest = exact.abs().amax((1, 2)) / (2 ** (bits() - 1) - 1)
    steps = torch.where(largest > 0, largest, 1.0)
    whole = (exact / steps[:, None, None]).round()
    factors = steps.float()
    biases = -factors.double() * (whole * zero).sum((1, 2))
    # what rounded weights change on average
    biases += ((exact - whole * steps[:, None, None]) * (values.mean.double() / step)).sum((1, 2))
    if bias is not None:
        biases += bias.detach().double()
    small = whole.to(torch.int8).contiguous()
    laid_out, inverse = small.new_empty(0), 1 / step
    if KERNEL.ready():
        lanes = KERNEL.library.deeplab_int8_lanes()
        rest = -outputs % lanes
        factors, biases = F.pad(factors, (0, rest)), F.pad(biases, (0, rest))
        inverse, zero = (F.pad(each, (0, -channels % lanes)) for each in (inverse, zero))
        depth = small.shape[1] * -(-channels // QUAD) * QUAD
        laid_out = small.new_zeros((outputs + rest) * depth)
        KERNEL.library.deeplab_int8_pack(
            outputs, small.shape[1], channels, small.data_ptr(), laid_out.data_ptr()
        )
    return Packed(small, laid_out, factors, biases.float(), inverse.float(), zero.float(), (height, columns))


def int8_conv(
    x: torch.Tensor,
    packed: Packed,
    place: Place,
    ending: Ending = LINEAR,
    added: torch.Tensor | None = None,
) -> torch.Tensor:
    """A dense convolution of packed weights, plus `added`, and its ending.

    Args:
        x: float32 [N, in, H, W], channels last.
        packed: the weights.
        place: strides, rates, and padding with zeros.
        ending: of the sums.
        added: of the result's shape, channels last.

    Returns:
        float32 [N, out, H', W'], channels last.

    Raises:
        RuntimeError: `added` has another shape.
    """
    if not KERNEL.ready():
        return plain_conv(x, packed, place, ending, added)
    rows, columns = place.tables(x, packed.kernel)
    target = empty_for((x.shape[0], len(packed.weight), len(rows), len(columns)), x.dtype, added)
    KERNEL.library.deeplab_int8_dense(
        (ctypes.c_int64 * 6)(*x.shape, len(rows), len(columns)),
        packed.kernel[1],
        torch.get_num_threads(),
        x.data_ptr(),
        ctypes.byref(packed.layer(ending)),
        None if added is None else added.data_ptr(),
        rows.ctypes.data,
        columns.ctypes.data,
        target.data_ptr(),
    )
    return target


def int8_separable(
    x: torch.Tensor,
    expand: Packed | None,
    depthwise: Filter,
    project: Packed | None,
    *,
    place: Place,
    endings: tuple[Ending, Ending, Ending],
    added: torch.Tensor | None = None,
    behind: tuple[torch.Tensor, ResizeRule] | None = None,
    last: Packed | None = None,
) -> torch.Tensor:
    """As `deeplab.native.separable.separable_conv`, the 1x1 convolutions in 8 bits.

    `last` is one more behind the projection, to which nothing is added then.
    """
    hidden = len(depthwise.bias)
    rows, columns = place.tables(x, (depthwise.kernel, depthwise.kernel))
    outputs = hidden if project is None else len((last or project).weight)
    target = empty_for((x.shape[0], outputs, len(rows), len(columns)), x.dtype, added)
    first, middle, end = endings
    KERNEL.library.deeplab_int8_separable(
        (ctypes.c_int64 * 6)(*x.shape, len(rows), len(columns)),
        hidden,
        depthwise.kernel,
        torch.get_num_threads(),
        x.data_ptr(),
        None if behind is None else upsampled(*behind, (x.shape[2], x.shape[3])),
        ctypes.byref(Layer() if expand is None else expand.layer(first)),
        depthwise.weight.data_ptr(),
        depthwise.bias.data_ptr(),
        (ctypes.c_float * 3)(*middle),
        ctypes.byref(Layer() if project is None else project.layer(end)),
        ctypes.byref(Layer() if last is None else last.layer(LINEAR)),
        None if added is None else added.data_ptr(),
        rows.ctypes.data,
        columns.ctypes.data,
        target.data_ptr(),
    )
    return target


def plain_conv(
    x: torch.Tensor,
    packed: Packed,
    place: Place,
    ending: Ending = LINEAR,
    added: torch.Tensor | None = None,
) -> torch.Tensor:
    """`int8_conv` in torch: products in float64, whose sums of whole numbers are exact."""
    outputs, _, channels = packed.weight.shape
    inverse, zero = (each[:channels].double().view(1, -1, 1, 1) for each in (packed.inverse, packed.zero))
    (top, bottom), (left, right) = place.pads
    padded = F.pad(x.double(), (left, right, top, bottom))
    found = (padded * inverse + zero).float().round().clamp_(0, 255).double()
    weight = packed.weight.double().view(outputs, *packed.kernel, channels).permute(0, 3, 1, 2)
    sums = F.conv2d(found, weight, None, place.stride, (0, 0), place.rate).float().double()
    factor, bias = (each[:outputs].double().view(1, -1, 1, 1) for each in (packed.factor, packed.bias))
    result = (sums * factor + bias).float()
    if added is not None:
        result = result + added
    ended = (
        result * (result + 3).clamp_(0, 6) * (1 / 6)
        if ending.swish
        else result.clamp_(ending.least, ending.most)
    )
    return ended.contiguous(memory_format=torch.channels_last)
