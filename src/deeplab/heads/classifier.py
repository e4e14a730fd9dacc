"""From features to logits: one convolution, or one per atrous rate with their scores summed.

v2 section 3.2: on ResNet-101 the ASPP is four parallel 3x3 convolutions straight to the classes, with
biases, summed. v3 and v3+: a single 1x1. Reference fact 3.5.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from deeplab.layers.atrous import scale_rate
from deeplab.layers.containers import ModuleList
from deeplab.layers.conv import AtrousConv2d


class Classifier(nn.Module):
    """[N, C, h, w] -> logits [N, num_classes, h, w].

    Args:
        sigmoid: of two classes, of which the second alone is computed: the first one's logit is that of this threshold.
    """

    sigmoid: float | None

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        kernel: int = 1,
        rates: tuple[int, ...] = (),
        native_stride: int,
        sigmoid: float | None = None,
    ) -> None:
        super().__init__()
        self.sigmoid = sigmoid
        channels = num_classes if sigmoid is None else 1
        self.rates = rates or (1,)
        self.native_stride = native_stride
        self.convs = ModuleList(
            AtrousConv2d(in_channels, channels, kernel=kernel, rate=rate, bias=True) for rate in self.rates
        )

    def set_output_stride(self, output_stride: int) -> None:
        """Re-derive the rates from those stated at the native output stride."""
        for conv, rate in zip(self.convs, self.rates, strict=True):
            conv.set_atrous(1, scale_rate(rate, native=self.native_stride, output_stride=output_stride))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits = self.convs[0](features)
        for conv in self.convs[1:]:
            logits = logits + conv(features)
        if self.sigmoid is None:
            return logits
        return torch.cat([torch.full_like(logits, math.log(self.sigmoid / (1 - self.sigmoid))), logits], 1)
