"""MobileNetV2 (arXiv 1801.04381) as DeepLab uses it, at any width.

Reference fact 2.4. What differs from the classification network: it ends at the linear 320-channel
bottleneck, and widths other than 1 round channels to a divisor of 1 unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from deeplab.atrous import plan_strides
from deeplab.backbones.base import Backbone, Features
from deeplab.config import Padding
from deeplab.layers.conv import ConvNormAct
from deeplab.layers.norm import NormLayer

# (expansion, channels, repeats, stride of the first), arXiv 1801.04381 table 2
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# nominal stride -> index of the bottleneck whose depthwise output feeds the decoder
END_POINTS = {4: 2, 8: 5, 16: 12}


def round_channels(channels: float, divisor: int) -> int:
    """Nearest multiple of `divisor`, at least `divisor`, and never more than 10 % below `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; identity skip where shapes allow."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        stride: int,
        norm: NormLayer | None,
        padding_rule: Padding,
    ) -> None:
        super().__init__()
        hidden = in_channels if expansion == 1 else round_channels(in_channels * expansion, 8)
        self.nominal_stride = stride
        self.skip = stride == 1 and in_channels == out_channels
        self.expand = (
            nn.Identity()
            if expansion == 1
            else ConvNormAct(in_channels, hidden, kernel=1, norm=norm, activation="relu6")
        )
        self.depthwise = ConvNormAct(
            hidden,
            hidden,
            kernel=3,
            stride=stride,
            groups=hidden,
            norm=norm,
            activation="relu6",
            padding_rule=padding_rule,
        )
        self.project = ConvNormAct(hidden, out_channels, kernel=1, norm=norm, activation=None)

    def widen(self, x: torch.Tensor) -> torch.Tensor:
        """Expansion and depthwise step: the decoder's end point."""
        return self.depthwise(self.expand(x))

    def narrow(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Projection of `hidden`, plus the block's input `x` where there is a skip."""
        out = self.project(hidden)
        return x + out if self.skip else out


class MobileNetV2(Backbone):
    """Width-scaled MobileNetV2; end points 4, 8, 16 are depthwise outputs (before projection).

    Args:
        width: channel multiplier (depth multiplier in the reference).
        divisor: channels are multiples of it; None means 8 at width 1 and 1 at any other (fact 2.4).
    """

    def __init__(
        self,
        *,
        width: float,
        divisor: int | None,
        in_channels: int,
        norm: NormLayer | None,
        padding_rule: Padding,
    ) -> None:
        super().__init__()
        if divisor is None:
            divisor = 8 if width == 1.0 else 1
        channels = round_channels(32 * width, divisor)
        self.stem = ConvNormAct(
            in_channels,
            channels,
            kernel=3,
            stride=2,
            norm=norm,
            activation="relu6",
            padding_rule=padding_rule,
        )
        blocks = []
        for expansion, base, repeats, first_stride in STAGES:
            out = round_channels(base * width, divisor)
            for repeat in range(repeats):
                blocks.append(
                    InvertedResidual(
                        channels,
                        out,
                        expansion=expansion,
                        stride=first_stride if repeat == 0 else 1,
                        norm=norm,
                        padding_rule=padding_rule,
                    )
                )
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.out_channels = channels
        self.low_level_channels = {
            stride: blocks[index].depthwise.conv.out_channels for stride, index in END_POINTS.items()
        }

    def set_output_stride(self, output_stride: int) -> None:
        stem, *plan = plan_strides([2, *(block.nominal_stride for block in self.blocks)], output_stride)
        self.stem.set_atrous(*stem)
        for block, atrous in zip(self.blocks, plan, strict=True):
            block.depthwise.set_atrous(*atrous)

    def forward(self, x: torch.Tensor, low_level: Collection[int] = ()) -> Features:
        wanted = {END_POINTS[stride]: stride for stride in low_level}
        taps = {}
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            hidden = block.widen(x)
            if index in wanted:
                taps[wanted[index]] = hidden
            x = block.narrow(x, hidden)
        return x, taps
