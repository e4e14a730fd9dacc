"""VGG-16 (arXiv 1409.1556), fully convolutional, as v1 and v2 use it.

v1 section 3.1: 13 convolutions with biases and no batch norm, five 3x3 max-poolings with padding 1. At
output stride 8 the last two poolings keep stride 1 and conv5 has rate 2. The poolings' windows keep rate 1
at every output stride, as in the released models.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from deeplab.backbones.base import Backbone, Features
from deeplab.config import VGG16Config
from deeplab.layers.atrous import plan_strides
from deeplab.layers.conv import ConvNormAct
from deeplab.layers.pool import MaxPool

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# nominal stride -> stage whose last convolution is the decoder's end point
END_POINTS = {4: 2, 8: 3, 16: 4}


class VGG16(Backbone):
    """conv1_1 to pool5: [N, in_channels, H, W] -> [N, 512, ~H / OS, ~W / OS]."""

    def __init__(self, config: VGG16Config) -> None:
        super().__init__()
        in_channels = config.in_channels
        stages, pools = [], []
        for width, count in STAGES:
            convs = []
            for _ in range(count):
                convs.append(ConvNormAct(in_channels, width, kernel=3, norm=None, activation="relu"))
                in_channels = width
            stages.append(nn.Sequential(*convs))
            pools.append(MaxPool(stride=2, padding_rule=config.padding))
        self.stages = nn.ModuleList(stages)
        self.pools = nn.ModuleList(pools)
        self.out_channels = in_channels
        self.low_level_channels = {stride: STAGES[index][0] for stride, index in END_POINTS.items()}

    def set_output_stride(self, output_stride: int) -> None:
        parts = [part for stage, pool in zip(self.stages, self.pools, strict=True) for part in (*stage, pool)]
        nominal = [2 if isinstance(part, MaxPool) else 1 for part in parts]
        for part, atrous in zip(parts, plan_strides(nominal, output_stride), strict=True):
            part.set_atrous(*atrous)

    def with_poolings(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The last feature map, and the outputs of the first four poolings (for v1's MSc)."""
        pooled = []
        for stage, pool in zip(self.stages, self.pools, strict=True):
            x = pool(stage(x))
            pooled.append(x)
        return x, pooled[:-1]

    def forward(self, x: torch.Tensor, low_level: Collection[int] = ()) -> Features:
        wanted = {END_POINTS[stride]: stride for stride in low_level}
        taps = {}
        for index, (stage, pool) in enumerate(zip(self.stages, self.pools, strict=True)):
            x = stage(x)
            if index in wanted:
                taps[wanted[index]] = x
            x = pool(x)
        return x, taps
