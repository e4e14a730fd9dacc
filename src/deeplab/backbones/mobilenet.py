"""What the MobileNets share: a strided stem, a row of blocks, sometimes a last 1x1 convolution.

Reference facts 2.2 (output stride) and 2.4 to 2.6 (the networks, each a table in its own module).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import nn

from deeplab.backbones.base import Backbone, Features
from deeplab.config import RateGrowth
from deeplab.layers.atrous import Atrous, plan_strides
from deeplab.layers.conv import ConvNormAct
from deeplab.layers.inverted_residual import MobileBlock


class MobileNet(Backbone):
    """Stem - blocks - last convolution; end points are what blocks hold before projection (and its gate).

    With `low_level_at='outputs'` end points are those blocks' outputs.

    Args:
        stem: first convolution, of nominal stride 2.
        last: convolution behind the blocks; None where the last block's output is the result.
        out_channels: of the result.
        end_points: nominal stride -> index of the block whose hidden map feeds the decoder.
    """

    def __init__(
        self,
        stem: ConvNormAct,
        blocks: Sequence[MobileBlock],
        *,
        last: ConvNormAct | None,
        out_channels: int,
        end_points: Mapping[int, int],
        rate_grows_at: RateGrowth = "next_unit",
        low_level_at: Literal["inside", "outputs"] = "inside",
    ) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Identity() if last is None else last
        self.out_channels = out_channels
        self.end_points = dict(end_points)
        self.rate_grows_at = rate_grows_at
        self.low_level_at = low_level_at
        self.low_level_channels = {
            stride: blocks[index].hidden_channels if low_level_at == "inside" else blocks[index].out_channels
            for stride, index in self.end_points.items()
        }

    def set_output_stride(self, output_stride: int) -> None:
        stem, *plan = self.plan(output_stride)
        self.stem.set_atrous(*stem)
        for block, atrous in zip(self.blocks, plan, strict=True):
            block.set_atrous(*atrous)

    def plan(self, output_stride: int) -> list[Atrous]:
        """Stride and rate of the stem and of each block."""
        nominal = [2, *(block.nominal_stride for block in self.blocks)]
        return plan_strides(nominal, output_stride, rate_grows_at=self.rate_grows_at)

    def forward(self, x: torch.Tensor, low_level: Collection[int] = ()) -> Features:
        wanted = {self.end_points[stride]: stride for stride in low_level}
        taps = {}
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            if index in wanted and self.low_level_at == "inside":
                taps[wanted[index]] = hidden = block.widen(x)
                x = block.narrow(x, hidden)
            else:
                x = block(x)
            if index in wanted and self.low_level_at == "outputs":
                taps[wanted[index]] = x
        return self.last(x), taps
