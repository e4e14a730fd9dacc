"""The MobileNets' blocks: widen, filter, narrow linearly, skip where shapes allow.

Inverted residual: arXiv 1801.04381 section 3; with squeeze and excite: arXiv 1905.02244 section 5; fused:
reference fact 2.6. Whether there is a skip follows from the stride a block has *now* (fact 2.2): a block
that loses its stride to a denser output gains a skip if it keeps the number of channels, and the reference
does the same when it builds at that output stride.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from deeplab.config import Padding
from deeplab.layers.activations import Activation
from deeplab.layers.conv import ConvNormAct
from deeplab.layers.norm import NormLayer
from deeplab.layers.squeeze_excite import SqueezeExcite


def round_channels(channels: float, divisor: int, *, least: int | None = None) -> int:
    """Nearest multiple of `divisor`, at least `least` (`divisor` if None), `divisor` more if over 10 % below."""
    rounded = max(least or divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class MobileBlock(nn.Module):
    """What the blocks share: [N, in, H, W] -> hidden [N, hidden, H', W'] -> [N, out, H', W'].

    Attributes:
        nominal_stride: its stride where nothing is dilated.
        hidden_channels: channels between widening and narrowing.
        out_channels: channels behind narrowing.
        skip: whether the input is added to the output at the present stride.
    """

    project: ConvNormAct

    def __init__(
        self, in_channels: int, out_channels: int, *, hidden: int, stride: int, residual: bool = True
    ) -> None:
        super().__init__()
        self.nominal_stride = stride
        self.hidden_channels = hidden
        self.out_channels = out_channels
        self.may_skip = residual and in_channels == out_channels
        self.skip = self.may_skip and stride == 1

    def set_atrous(self, stride: int, rate: int) -> None:
        """Change stride and rate of the spatial convolution; stride 1 lets the skip in."""
        self.skip = self.may_skip and stride == 1
        self.set_spatial_atrous(stride, rate)

    def set_spatial_atrous(self, stride: int, rate: int) -> None:
        """Change stride and rate of whichever convolution looks around."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.narrow(x, self.widen(x))

    def widen(self, x: torch.Tensor) -> torch.Tensor:
        """Expansion and spatial convolution: the decoder's end point."""
        raise NotImplementedError

    def narrow(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Projection of `hidden`, plus the block's input `x` where there is a skip."""
        return self.project.joined(hidden, x, nn.Identity()) if self.skip else self.project(hidden)


class InvertedResidual(MobileBlock):
    """1x1 expansion, depthwise convolution, squeeze and excite if `squeezed`, linear 1x1 projection.

    There is no expansion where `hidden` is no more than the input's channels. By padding rule 'block' the
    block's input is padded, so what lies beyond the border passes the expansion, norm and activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        hidden: int,
        stride: int,
        norm: NormLayer | None,
        activation: Activation,
        padding_rule: Padding,
        kernel: int = 3,
        squeezed: int | None = None,
        residual: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, hidden=hidden, stride=stride, residual=residual)
        self.expand = (
            ConvNormAct(in_channels, hidden, kernel=1, norm=norm, activation=activation)
            if hidden > in_channels
            else nn.Identity()
        )
        self.depthwise = ConvNormAct(
            hidden,
            hidden,
            kernel=kernel,
            stride=stride,
            groups=hidden,
            norm=norm,
            activation=activation,
            padding_rule="none" if padding_rule == "block" else padding_rule,
        )
        self.squeeze_excite = nn.Identity() if squeezed is None else SqueezeExcite(hidden, squeezed)
        self.project = ConvNormAct(hidden, out_channels, kernel=1, norm=norm, activation=None)

    def set_spatial_atrous(self, stride: int, rate: int) -> None:
        self.depthwise.set_atrous(stride, rate)

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        """What the expansion reads: by padding rule 'block' with a border of zeros."""
        conv = self.depthwise.conv
        if conv.padding_rule != "none":
            return x
        # the kernels are odd: as much before as behind
        return F.pad(x, [conv.kernel_size[0] // 2 * conv.dilation[0]] * 4)

    def widen(self, x: torch.Tensor) -> torch.Tensor:
        return self.depthwise(self.expand(self.padded(x)))

    def narrow(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return super().narrow(x, self.squeeze_excite(hidden))


class FusedInvertedResidual(MobileBlock):
    """One full convolution that expands and strides, then the linear 1x1 projection (fact 2.6).

    Without expansion (`hidden` no more than the input's channels) only the projection is left, so such a
    block cannot have a stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        hidden: int,
        stride: int,
        norm: NormLayer | None,
        activation: Activation,
        padding_rule: Padding,
        kernel: int = 3,
    ) -> None:
        super().__init__(in_channels, out_channels, hidden=hidden, stride=stride)
        self.expand = (
            ConvNormAct(
                in_channels,
                hidden,
                kernel=kernel,
                stride=stride,
                norm=norm,
                activation=activation,
                padding_rule=padding_rule,
            )
            if hidden > in_channels
            else None
        )
        self.project = ConvNormAct(hidden, out_channels, kernel=1, norm=norm, activation=None)

    def set_spatial_atrous(self, stride: int, rate: int) -> None:
        if self.expand is not None:
            self.expand.set_atrous(stride, rate)

    def widen(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.expand is None else self.expand(x)
