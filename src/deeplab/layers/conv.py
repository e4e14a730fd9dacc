"""Atrous convolution with a padding rule by name, and the blocks built from it.

v1 section 3.1 (atrous convolution), v3+ section 3.1 (atrous separable convolution); padding: reference
fact 2.3. Stride and rate are plain attributes that may change at run time; weights never do.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from deeplab.config import Padding
from deeplab.errors import UserError
from deeplab.layers.activations import Activation, make_activation
from deeplab.layers.norm import BatchNorm2d, NormLayer
from deeplab.layers.resize import ceil_divide
from deeplab.native import dense_conv, depthwise, norm_act

# of one kernel: the largest published one, of v1's fc6 in 7x7, has 103 million
MOST_VALUES = 1 << 27
ConvPadding = Padding | Literal["none"]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding (begin, end) along one axis of `size` for an effective `kernel`.

    max((ceil(size / stride) - 1) * stride + kernel - size, 0) in all (fact 2.3). Stride 1: as symmetric
    padding. Stride 2 and a 3x3 kernel: (1, 1) on odd sizes, (0, 1) on even ones.
    """
    if kernel == 1:
        return 0, 0
    # ExecuTorch's remainders of negative numbers are C's, so that there are none here
    total = kernel + (ceil_divide(size, stride) - 1) * stride - size
    if kernel < stride:
        # the windows leave pixels out between them; sym_max because exported sizes have no value yet
        total = torch.sym_max(total, 0)
    return total // 2, total - total // 2


class AtrousConv2d(nn.Conv2d):
    """Convolution [N, in, H, W] -> [N, out, ceil(H / stride), ceil(W / stride)].

    `padding_rule` 'same' is TensorFlow's SAME; 'symmetric' pads (effective kernel - 1) // 2 before and the
    rest behind, PyTorch's habit and TensorFlow's explicit padding. They differ only where stride > 1 meets
    an even size. 'none' is for inputs that are padded already; the others are 'symmetric' here. `rate` may be
    one number or (vertical, horizontal).
    """

    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int = 1,
        rate: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        padding_rule: ConvPadding = "same",
    ) -> None:
        values = in_channels // groups * out_channels * kernel**2
        if values > MOST_VALUES and torch.empty(0).device.type != "meta":
            raise UserError(
                f"a convolution of {in_channels} to {out_channels} channels with a kernel of {kernel} has {values:,} "
                "weights",
                allowed=f"up to {MOST_VALUES:,}",
                fix="fewer channels, or a smaller kernel",
            )
        super().__init__(
            in_channels, out_channels, kernel, stride=stride, dilation=rate, groups=groups, bias=bias
        )
        self.padding_rule = padding_rule
        self.set_atrous(stride, rate)

    def set_atrous(self, stride: int, rate: int | tuple[int, int]) -> None:
        """Change stride and rate; parameters are untouched."""
        self.stride = (stride, stride)
        self.dilation = (rate, rate) if isinstance(rate, int) else rate
        rows, columns = ((k - 1) * d for k, d in zip(self.kernel_size, self.dilation, strict=True))
        if self.padding_rule == "none":
            rows = columns = 0
        self._symmetric = (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)
        self._even_pad = rows % 2 == columns % 2 == 0
        self.padding = (rows // 2, columns // 2) if self._even_pad else (0, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.groups > 1:
            x, done = self._depthwise(x)
            if done:
                return x
        elif dense_conv.wins(x, self.weight, stride=self.stride):
            return dense_conv.dense_conv(x, self.weight, self.bias, self.place_of(x))
        if self._even_pad and (self.padding_rule != "same" or self.stride == (1, 1)):
            return self._convolve(x, self.padding)
        (top, bottom), (left, right) = self._pads(x.shape[-2], x.shape[-1])
        if not torch.compiler.is_exporting() and (top, left) == (bottom, right):
            return self._convolve(x, (top, left))
        return self._convolve(F.pad(x, (left, right, top, bottom)), (0, 0))

    def joined(self, x: torch.Tensor, other: torch.Tensor, activation: nn.Module) -> torch.Tensor:
        """`activation(other + self(x))`, for shapes that agree."""
        return activation(other + self(x))

    def _convolve(self, x: torch.Tensor, padding: tuple[int, int]) -> torch.Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def place_of(self, x: torch.Tensor) -> dense_conv.Place:
        """How the kernel moves over x."""
        return dense_conv.Place(self.stride, self.dilation, self._pads(x.shape[-2], x.shape[-1]))

    def _depthwise(self, x: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """The result and True where our own kernel wins; else what oneDNN may have, and False."""
        dtype = depthwise.dtype_of(x)
        stride, rate = self.stride, self.dilation
        if not depthwise.wins(x, self.weight, stride=stride, rate=rate, dtype=dtype):
            return (depthwise.kept_right(x, rate=rate, dtype=dtype), False)
        pads = self._pads(x.shape[-2], x.shape[-1])
        found = depthwise.depthwise_conv(
            x.to(dtype), self.weight, self.bias, stride=stride, rate=rate, pads=pads
        )
        return found, True

    def _pads(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        if self.padding_rule != "same" or self.stride == (1, 1):
            return self._symmetric
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        return (
            same_padding(height, reach[0], self.stride[0]),
            same_padding(width, reach[1], self.stride[1]),
        )


class ConvNormAct(nn.Module):
    """Convolution, batch norm, activation: [N, in, H, W] -> [N, out, H', W'].

    With `norm=None` there is no norm and the convolution has a bias (folded weights, biased layers).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        norm: NormLayer | None,
        activation: Activation | None,
        stride: int = 1,
        rate: int | tuple[int, int] = 1,
        groups: int = 1,
        padding_rule: ConvPadding = "same",
    ) -> None:
        super().__init__()
        self.conv = AtrousConv2d(
            in_channels,
            out_channels,
            kernel=kernel,
            stride=stride,
            rate=rate,
            groups=groups,
            bias=norm is None,
            padding_rule=padding_rule,
        )
        self.norm = nn.Identity() if norm is None else norm(out_channels)
        self.activation = make_activation(activation)

    def set_atrous(self, stride: int, rate: int | tuple[int, int]) -> None:
        """Change stride and rate of the convolution."""
        self.conv.set_atrous(stride, rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        # subclasses have statistics of their own
        if type(self.norm) is BatchNorm2d and norm_act.wins(x, self.norm, self.activation):
            return norm_act.norm_act(x, self.norm, self.activation)
        return self.activation(self.norm(x))

    def joined(self, x: torch.Tensor, other: torch.Tensor, activation: nn.Module) -> torch.Tensor:
        """`activation(other + self(x))`, for shapes that agree: the end of a residual unit."""
        if isinstance(self.norm, nn.Identity) and isinstance(self.activation, nn.Identity):
            return self.conv.joined(x, other, activation)
        return activation(other + self(x))


class SeparableConv(nn.Module):
    """Atrous separable convolution: 3x3 depthwise at a rate, then 1x1, each with norm and activation.

    v3+ section 3.1; the reference normalises and activates after the depthwise step too (fact 3.2), some
    PyTorch libraries do not (`depthwise_norm=False`).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: NormLayer | None,
        activation: Activation | None,
        kernel: int = 3,
        rate: int | tuple[int, int] = 1,
        padding_rule: Padding = "same",
        depthwise_norm: bool = True,
    ) -> None:
        super().__init__()
        if depthwise_norm:
            self.depthwise: ConvNormAct | AtrousConv2d = ConvNormAct(
                in_channels,
                in_channels,
                kernel=kernel,
                rate=rate,
                groups=in_channels,
                norm=norm,
                activation=activation,
                padding_rule=padding_rule,
            )
        else:
            self.depthwise = AtrousConv2d(
                in_channels,
                in_channels,
                kernel=kernel,
                rate=rate,
                groups=in_channels,
                padding_rule=padding_rule,
            )
        self.pointwise = ConvNormAct(in_channels, out_channels, kernel=1, norm=norm, activation=activation)

    def set_atrous(self, stride: int, rate: int | tuple[int, int]) -> None:
        """Change stride and rate of the depthwise step."""
        self.depthwise.set_atrous(stride, rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


def spatial_conv(
    in_channels: int,
    out_channels: int,
    *,
    separable: bool,
    norm: NormLayer | None,
    activation: Activation | None,
    rate: int | tuple[int, int] = 1,
    depthwise_norm: bool = True,
) -> SeparableConv | ConvNormAct:
    """A 3x3 layer of a head, atrous separable (v3+) or plain (v3)."""
    if separable:
        return SeparableConv(
            in_channels,
            out_channels,
            norm=norm,
            activation=activation,
            rate=rate,
            depthwise_norm=depthwise_norm,
        )
    return ConvNormAct(in_channels, out_channels, kernel=3, norm=norm, activation=activation, rate=rate)
