"""Dense convolution, channels last, as an autograd function, for processors with AVX2 or AVX-512.

By `dense_conv.cpp`, or by `winograd.py` where that suits: 3x3 kernels of stride 1, two to three times faster there.

With AVX2 oneDNN (torch 2.13) takes up to a third longer for values and the image's gradient of narrow 1x1 layers, and
two to three times as long for the weights' gradient of 3x3 kernels; with AVX-512 it is as fast as we are for wide 1x1
layers, and whatever is one pass, Winograd's or a gradient is faster here. Equal to `torch.nn.functional.conv2d` up to
the order of sums.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from deeplab.native import winograd
from deeplab.native.build import INT, LONG, POINTER, REAL, Kernel
from deeplab.native.depthwise import Pads, taps, taps_back
from deeplab.native.winograd import Ending

KERNEL = Kernel(
    __name__,
    {
        "deeplab_dense_panel": (LONG,),
        "deeplab_dense_halves": (INT,),
        "deeplab_dense_bands": (LONG, POINTER),
        "deeplab_dense_pack": (None, LONG, LONG, LONG, POINTER, INT, POINTER, POINTER),
        "deeplab_dense": (None, POINTER, LONG, INT, *[POINTER] * 4, REAL, REAL, INT, *[POINTER] * 3),
        "deeplab_dense_weight": (None, POINTER, LONG, *[POINTER] * 5),
    },
)
# with fewer, oneDNN does as well: positions of the output, channels in and out, weights whose gradient is asked for
LEAST_PLACES, LEAST_CHANNELS, LEAST_WEIGHTS = 64, 16, 1 << 12
# channels of bfloat16 from which on we are faster
LEAST_HALVES = 128
Pair = tuple[int, int]
# as torch calls them; they have vectors of 8 and of 16 numbers, and fused products and sums
PROCESSORS = ("AVX2", "AVX512")
LINEAR = Ending()


class Place(NamedTuple):
    """How a convolution's kernel moves: vertically and horizontally."""

    stride: Pair
    rate: Pair
    pads: Pads

    def tables(
        self, x: torch.Tensor, kernel: Sequence[int], of: Callable[..., np.ndarray] = taps
    ) -> list[np.ndarray]:
        """Which rows and which columns of x [N, C, H, W] a kernel's taps read; or `taps_back`, which read them."""
        axes = zip(x.shape[2:], kernel, self.stride, self.rate, self.pads, strict=True)
        return [of(*each) for each in axes]


def wins(x: torch.Tensor, weight: torch.Tensor, *, stride: Pair) -> bool:
    """Whether `dense_conv` and `packed_conv` can run, and are faster than oneDNN."""
    return can_run(x) and weight.dtype == torch.float32 and _is_worth_it(x, weight, stride)


def wins_packed(x: torch.Tensor, weight: torch.Tensor, *, stride: Pair, rate: Pair) -> bool:
    """Whether `packed_conv` can run, in bfloat16 too, and is faster than oneDNN."""
    if x.dtype != torch.bfloat16:
        return wins(x, weight, stride=stride)
    # oneDNN computes outputs by sixteens; where that leaves none over, it is as fast for few channels and at rates
    better = weight.shape[0] % 16 > 0 or (x.shape[1] >= LEAST_HALVES and max(rate) == 1)
    return better and can_run_halves(x) and weight.dtype == x.dtype and _is_worth_it(x, weight, stride)


def can_run(x: torch.Tensor) -> bool:
    """Whether it is an eager call on such a processor for an image of float32 [N, C, H, W], channels last."""
    return x.dtype == torch.float32 and _can_run(x)


def can_run_halves(x: torch.Tensor) -> bool:
    """The same for bfloat16 and packed weights, on a processor that multiplies it and has no tiles for oneDNN to use.

    Channels are multiplied in pairs.
    """
    return (
        x.dtype == torch.bfloat16
        and x.shape[1] % 2 == 0
        and _can_run(x)
        and _suits_halves()
        and KERNEL.ready()
        and bool(KERNEL.library.deeplab_dense_halves())
    )


@cache
def _suits_halves() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported()) and not torch.cpu._is_amx_tile_supported()


def _is_worth_it(x: torch.Tensor, weight: torch.Tensor, stride: Pair) -> bool:
    return (
        min(weight.shape[:2]) >= LEAST_CHANNELS
        and x.shape[1] == weight.shape[1]
        and x.numel() // x.shape[1] >= LEAST_PLACES * math.prod(stride)
        and KERNEL.ready()
    )


def _can_run(x: torch.Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and x.device.type == "cpu"
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and type(x) is torch.Tensor
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.cpu.get_cpu_capability() in PROCESSORS
    )


def dense_conv(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, place: Place
) -> torch.Tensor:
    """Convolution where it `wins`.

    Args:
        x: float32 [N, in, H, W], channels last.
        weight: float32 [out, in, K, L].
        bias: float32 [out] or None.
        place: strides, rates, and zeros around the image.

    Returns:
        float32 [N, out, H', W'], channels last.
    """
    return _Dense.apply(x, weight, bias, place)


def packed_conv(
    x: torch.Tensor,
    packed: Packed | winograd.Packed,
    place: Place,
    ending: Ending = LINEAR,
    added: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `dense_conv` without gradients, of packed weights, plus `added`, and its ending; in x's dtype.

    Sums of bfloat16 are float32. `added` has the result's shape and dtype and is channels last.
    """
    if isinstance(packed, winograd.Packed):
        return winograd.packed_conv(x, packed, rate=place.rate, pads=place.pads, ending=ending, added=added)
    return _correlate(x, packed, ending, place.tables(x, packed.kernel), added)


class Packed(NamedTuple):
    """Weights as the kernel reads them: panels of outputs, in them taps, in them channels; and the biases."""

    weight: torch.Tensor
    bias: torch.Tensor
    outputs: int
    kernel: tuple[int, int]


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Packed:
    """Weights [out, in, K, L] and biases [out], for inputs of any size and the weights' dtype: float32 or bfloat16."""
    weight = weight.detach()
    outputs, channels, height, width = weight.shape
    # one step from tap to tap
    if weight.stride(2) != width * weight.stride(3):
        weight = weight.contiguous()
    panel = KERNEL.library.deeplab_dense_panel()
    whole = -(-outputs // panel) * panel
    packed = weight.new_empty(whole * channels * height * width)
    KERNEL.library.deeplab_dense_pack(
        outputs,
        channels,
        height * width,
        (ctypes.c_int64 * 3)(weight.stride(0), weight.stride(1), weight.stride(3)),
        weight.dtype == torch.bfloat16,
        weight.data_ptr(),
        packed.data_ptr(),
    )
    biases = torch.zeros(whole)
    if bias is not None:
        biases[:outputs] = bias.detach()
    return Packed(packed, biases, outputs, (height, width))


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, place: Place
    ) -> torch.Tensor:
        ctx.place, ctx.by_winograd = place, winograd.suits(x, weight, **place._asdict())
        ctx.save_for_backward(x, weight)
        packed = winograd.pack(weight, bias) if ctx.by_winograd else pack(weight, bias)
        return packed_conv(x, packed, place)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = of_weight = of_bias = None
        moves = {"rate": ctx.place.rate, "pads": ctx.place.pads}
        if ctx.needs_input_grad[0] and ctx.by_winograd:
            of_x = winograd.image_gradient(x, weight, gradient, **moves)
        elif ctx.needs_input_grad[0]:
            of_x = _image_gradient(x, weight, gradient, ctx.place)
        if ctx.needs_input_grad[1] and ctx.by_winograd:
            of_weight = winograd.weight_gradient(x, gradient, **moves)
        elif ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(x, weight, gradient, ctx.place)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None


def _image_gradient(
    x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, place: Place
) -> torch.Tensor:
    if place.stride != (1, 1):
        # most taps of most pixels would read zeros
        return _by_onednn(x, weight, gradient, place, (True, False, False))
    tables = place.tables(x, weight.shape[2:], taps_back)
    return _correlate(gradient, pack(weight.transpose(0, 1), None), LINEAR, tables)


def _weight_gradient(
    x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, place: Place
) -> torch.Tensor:
    if weight.numel() < LEAST_WEIGHTS:
        return _by_onednn(x, weight, gradient, place, (False, True, False))
    outputs, channels, *kernel = weight.shape
    rows, columns = place.tables(x, kernel)
    sizes = _sizes(x, outputs, gradient.shape[2:], kernel)
    found = x.new_zeros(KERNEL.library.deeplab_dense_bands(sizes), outputs, *kernel, channels)
    KERNEL.library.deeplab_dense_weight(
        sizes,
        torch.get_num_threads(),
        x.data_ptr(),
        gradient.data_ptr(),
        rows.ctypes.data,
        columns.ctypes.data,
        found.data_ptr(),
    )
    return (found[0] if len(found) == 1 else found.sum(0)).permute(0, 3, 1, 2)


def _by_onednn(
    x: torch.Tensor,
    weight: torch.Tensor,
    gradient: torch.Tensor,
    place: Place,
    wanted: tuple[bool, bool, bool],
) -> torch.Tensor:
    (top, bottom), (left, right) = place.pads
    even = (top, left) == (bottom, right)
    padded = x if even else F.pad(x, (left, right, top, bottom))
    found = torch.ops.aten.convolution_backward(
        gradient,
        padded,
        weight,
        None,
        place.stride,
        (top, left) if even else (0, 0),
        place.rate,
        False,
        (0, 0),
        1,
        wanted,
    )
    if wanted[0] and not even:
        return found[0][:, :, top : top + x.shape[2], left : left + x.shape[3]]
    return found[0] if wanted[0] else found[1]


def _correlate(
    source: torch.Tensor,
    packed: Packed,
    ending: Ending,
    tables: list[np.ndarray],
    added: torch.Tensor | None = None,
) -> torch.Tensor:
    rows, columns = tables
    shape = (source.shape[0], packed.outputs, len(rows), len(columns))
    target = winograd.empty_for(shape, source.dtype, added)
    KERNEL.library.deeplab_dense(
        _sizes(source, packed.outputs, shape[2:], packed.kernel),
        torch.get_num_threads(),
        source.dtype == torch.bfloat16,
        source.data_ptr(),
        packed.weight.data_ptr(),
        packed.bias.data_ptr(),
        None if added is None else added.data_ptr(),
        *ending,
        rows.ctypes.data,
        columns.ctypes.data,
        target.data_ptr(),
    )
    return target


def _sizes(source: torch.Tensor, outputs: int, size: Any, kernel: Any) -> ctypes.Array[ctypes.c_int64]:
    images, channels, height, width = source.shape
    return (ctypes.c_int64 * 9)(images, channels, height, width, outputs, *size, *kernel)
