"""Squeeze and excite: a gate per channel made from the mean of the whole map.

arXiv 1709.01507 as MobileNetV3 uses it (arXiv 1905.02244 section 5.3); sizes and the gate's constant:
reference fact 2.5.
"""

from __future__ import annotations

import torch
from torch import nn

from deeplab.layers.conv import ConvNormAct
from deeplab.layers.view import map_mean


class SqueezeExcite(nn.Module):
    """Mean over H and W, 1x1 to `squeezed` channels, ReLU, 1x1 back, hard sigmoid; multiplied onto the map.

    Both convolutions have biases and no norm. The mean is taken over whatever map comes in, at any size.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(channels, squeezed, kernel=1, norm=None, activation="relu")
        self.expand = ConvNormAct(squeezed, channels, kernel=1, norm=None, activation="qsigmoid")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        return x * self.expand(self.reduce(map_mean(x)))
