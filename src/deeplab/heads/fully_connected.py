"""VGG's classifier layers as atrous convolutions: v1's LargeFOV and v2's ASPP of four such branches.

v1 section 3.2 (fc6 as a 3x3 of rate 12 with 1024 filters: LargeFOV), v2 section 3.2 (fc6-fc7-fc8
branches whose scores are summed: ASPP-S and ASPP-L). The branches' fc7 features leave this head
concatenated: the sum of one 1x1 fc8 per branch *is* one 1x1 classifier over the concatenation. The released
LargeFOV smooths its features first, by a 3x3 mean called pool5a.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from deeplab.config import FullyConnectedConfig
from deeplab.heads.base import ContextHead
from deeplab.layers.atrous import scale_rate
from deeplab.layers.conv import ConvNormAct


class FullyConnectedBranch(nn.Module):
    """fc6 (k x k, atrous) - ReLU - dropout - fc7 (1x1) - ReLU - dropout; no batch norm, with biases."""

    def __init__(self, in_channels: int, channels: int, *, kernel: int, rate: int, dropout: float) -> None:
        super().__init__()
        self.fc6 = ConvNormAct(in_channels, channels, kernel=kernel, rate=rate, norm=None, activation="relu")
        self.fc7 = ConvNormAct(channels, channels, kernel=1, norm=None, activation="relu")
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.fc7(self.dropout(self.fc6(features))))


class FullyConnectedContext(ContextHead):
    """One branch per rate, concatenated: [N, C, h, w] -> [N, channels * len(rates), h, w].

    Where it begins with a 3x3 mean (`smooth`), zeros beyond the border count, as in Caffe.
    """

    def __init__(self, in_channels: int, *, config: FullyConnectedConfig, native_stride: int) -> None:
        super().__init__()
        self.rates = config.rates
        self.smooth = config.smooth
        self.native_stride = native_stride
        self.branches = nn.ModuleList(
            FullyConnectedBranch(
                in_channels, config.channels, kernel=config.kernel, rate=rate, dropout=config.dropout
            )
            for rate in self.rates
        )
        self.out_channels = config.channels * len(self.rates)

    def set_output_stride(self, output_stride: int) -> None:
        for branch, rate in zip(self.branches, self.rates, strict=True):
            branch.fc6.set_atrous(1, scale_rate(rate, native=self.native_stride, output_stride=output_stride))

    def forward(
        self, features: torch.Tensor, image_size: tuple[int, int], scale: float = 1.0
    ) -> torch.Tensor:
        if self.smooth:
            features = F.avg_pool2d(features, 3, 1, 1)
        outputs = [branch(features) for branch in self.branches]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
