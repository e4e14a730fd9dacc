"""A separable convolution of an upsampled map with channels behind it, as v3+'s decoder has one: `upsampled.cpp`.

Equal to upsampling, concatenation and both convolutions one after another, up to the order of sums. The 1x1
convolution of the map's channels is computed before they are upsampled, once for each tap: where sides become four
times larger 9/16 of the products, and nothing of these channels at the large size.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch

from deeplab.config import ResizeRule
from deeplab.native import dense_conv
from deeplab.native.build import INT, LONG, POINTER, REAL, Kernel
from deeplab.native.dense_conv import Place
from deeplab.native.separable import Filter, by_tap, pointers, upsampled
from deeplab.native.winograd import Ending, empty_for

KERNEL = Kernel(
    __name__,
    {
        "deeplab_upsampled": (
            None,
            POINTER,
            *[LONG] * 3,
            INT,
            *[POINTER] * 6,
            REAL,
            REAL,
            INT,
            *[POINTER] * 3,
        )
    },
)
TAPS = 9
# of a tap's products, which are read from memory again, beside one of the large map's
COST = 1.4


class Packed(NamedTuple):
    """Weights as the kernel reads them.

    Attributes:
        taps: of a 1x1 convolution of the small map for each tap, one behind the other.
        filtering: the taps of the channels behind.
        project: the 1x1 convolution of these, and the biases of all.
    """

    taps: torch.Tensor
    filtering: Filter
    project: dense_conv.Packed


def saves_products(small: torch.Tensor, size: tuple[int, int]) -> bool:
    """Whether it is faster for a map [N, C, h, w] that is resized to `size`."""
    return TAPS * COST * small.shape[2] * small.shape[3] <= size[0] * size[1]


def pack(
    taps: torch.Tensor,
    tap_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    channels: int,
) -> Packed:
    """Depthwise weights [C, 1, 3, 3], 1x1 weights [out, C, 1, 1], and biases; the first `channels` are upsampled."""
    taps, weight = taps.detach(), weight.detach()
    each = taps[:channels].float().reshape(channels, TAPS).t()
    joined = (weight[None, :, :channels, 0, 0].float() * each[:, None]).to(weight.dtype)
    offset = torch.zeros(len(weight)) if bias is None else bias.detach().float()
    behind = None
    if tap_bias is not None:
        behind = tap_bias.detach()[channels:]
        offset = offset + weight[:, :channels, 0, 0].float() @ tap_bias.detach()[:channels].float()
    return Packed(
        torch.cat([dense_conv.pack(tap[:, :, None, None], None).weight for tap in joined]),
        by_tap(taps[channels:], behind),
        dense_conv.pack(weight[:, channels:], offset),
    )


def upsampled_conv(
    small: torch.Tensor,
    rule: ResizeRule,
    detail: torch.Tensor,
    packed: Packed,
    place: Place,
    ending: Ending,
    last: dense_conv.Packed | None = None,
) -> torch.Tensor:
    """The separable convolution of `small`, resized to detail's size by a rule, and `detail` behind it.

    Args:
        small: float32 or bfloat16 [N, C, h, w], channels last.
        rule: see `deeplab.layers.resize`.
        detail: [N, D, H, W] of the same dtype, channels last.
        packed: the weights, of C + D channels.
        place: of the depthwise convolution: stride 1, padded to the size of its input.
        ending: of the 1x1 convolution's sums.
        last: one more 1x1 convolution behind that.

    Returns:
        [N, out, H, W] of their dtype, channels last.
    """
    rows, columns = place.tables(detail, (3, 3))
    outputs = packed.project.outputs if last is None else last.outputs
    target = empty_for((len(detail), outputs, len(rows), len(columns)), detail.dtype, None)
    KERNEL.library.deeplab_upsampled(
        (ctypes.c_int64 * 6)(*detail.shape, len(rows), len(columns)),
        packed.project.outputs,
        outputs,
        torch.get_num_threads(),
        detail.dtype == torch.bfloat16,
        detail.data_ptr(),
        upsampled(small, rule, (detail.shape[2], detail.shape[3])),
        packed.taps.data_ptr(),
        pointers(packed.filtering),
        pointers(packed.project),
        pointers(last),
        *ending,
        rows.ctypes.data,
        columns.ctypes.data,
        target.data_ptr(),
    )
    return target
