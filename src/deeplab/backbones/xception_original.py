"""The original Xception (arXiv 1610.02357 figure 5), as Keras Applications has it, at any output stride.

It is not the aligned Xception of v3+ (see `xception`): its modules end in max poolings, and no batch norm
stands between the halves of a separable convolution. What differs from the classification network: the two
stem convolutions pad, so that maps keep their grid; a pooling that loses its stride takes the rate of what is
before it, which leaves the values at the kept positions unchanged.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import nn

from deeplab.backbones.base import Backbone, Features
from deeplab.config import OriginalXceptionConfig
from deeplab.layers.atrous import plan_strides
from deeplab.layers.conv import AtrousConv2d, ConvNormAct
from deeplab.layers.norm import NormLayer
from deeplab.layers.pool import MaxPool

# channels of each module's separable convolutions, in order; those of two are followed by a strided pooling
MODULES = (
    *((128, 128), (256, 256), (728, 728)),
    *((728, 728, 728),) * 8,
    (728, 1024),
)
# nominal stride -> module whose last separable convolution, before pooling, is the decoder's end point
END_POINTS = {4: 1, 8: 2, 16: 11}
TAIL = (1536, 2048)


class SeparableConvNorm(nn.Module):
    """3x3 depthwise at a rate, 1x1, batch norm; nothing between the two."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: NormLayer | None) -> None:
        super().__init__()
        self.depthwise = AtrousConv2d(in_channels, in_channels, kernel=3, groups=in_channels)
        self.pointwise = ConvNormAct(in_channels, out_channels, kernel=1, norm=norm, activation=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


class OriginalModule(nn.Module):
    """ReLU and separable convolution, twice, pooling and a 1x1 shortcut; or three times, and the input added.

    Attributes:
        nominal_stride: of the pooling where nothing is dilated; 1 without pooling.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], *, norm: NormLayer | None) -> None:
        super().__init__()
        self.nominal_stride = 2 if len(widths) == 2 else 1
        self.convs = nn.ModuleList(
            SeparableConvNorm(inner, outer, norm=norm)
            for inner, outer in zip((in_channels, *widths), widths, strict=False)
        )
        self.shortcut = (
            ConvNormAct(in_channels, widths[-1], kernel=1, stride=2, norm=norm, activation=None)
            if self.nominal_stride == 2
            else None
        )
        self.pool = MaxPool(stride=2, padding_rule="same")
        self.rate = 1

    def set_atrous(self, stride: int, rate: int) -> None:
        """Change the stride (pooling and shortcut) and the rate of everything."""
        for conv in self.convs:
            conv.depthwise.set_atrous(1, rate)
        if self.shortcut is not None:
            self.shortcut.set_atrous(stride, 1)
        self.pool.set_atrous(stride, 1)
        self.rate = rate

    def filter(self, x: torch.Tensor) -> torch.Tensor:
        """The separable convolutions: the decoder's end point."""
        for conv in self.convs:
            x = conv(F.relu(x))
        return x

    def finish(self, x: torch.Tensor, filtered: torch.Tensor) -> torch.Tensor:
        """The module's output from its input `x` and what `filter` gave."""
        if self.shortcut is None:
            return x + filtered
        if self.pool.stride == 1:
            filtered = F.pad(filtered, [self.rate] * 4, value=-torch.inf)
            return self.shortcut(x) + F.max_pool2d(filtered, 3, 1, dilation=self.rate)
        return self.shortcut(x) + self.pool(filtered)


class OriginalXception(Backbone):
    """Stem, twelve modules, two separable convolutions: 2048 rectified channels.

    End points at 4, 8, 16: the last separable convolution, before pooling, of the module that leaves that
    stride.
    """

    def __init__(self, config: OriginalXceptionConfig, norm: NormLayer | None) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvNormAct(config.in_channels, 32, kernel=3, stride=2, norm=norm, activation="relu"),
            ConvNormAct(32, 64, kernel=3, norm=norm, activation="relu"),
        )
        channels = (64, *(widths[-1] for widths in MODULES), *TAIL)
        self.stages = nn.ModuleList(
            OriginalModule(inner, widths, norm=norm) for inner, widths in zip(channels, MODULES, strict=False)
        )
        self.tail = nn.ModuleList(
            SeparableConvNorm(inner, outer, norm=norm)
            for inner, outer in zip(channels[-3:], TAIL, strict=False)
        )
        self.out_channels = TAIL[-1]
        self.low_level_channels = {stride: MODULES[index][-1] for stride, index in END_POINTS.items()}

    def set_output_stride(self, output_stride: int) -> None:
        nominal = [2, 1, *(stage.nominal_stride for stage in self.stages), 1]
        *plan, tail = plan_strides(nominal, output_stride)
        for part, atrous in zip([*self.stem, *self.stages], plan, strict=True):
            part.set_atrous(*atrous)
        for conv in self.tail:
            conv.depthwise.set_atrous(*tail)

    def forward(self, x: torch.Tensor, low_level: Collection[int] = ()) -> Features:
        wanted = {END_POINTS[stride]: stride for stride in low_level}
        taps = {}
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            filtered = stage.filter(x)
            if index in wanted:
                taps[wanted[index]] = filtered
            x = stage.finish(x, filtered)
        for conv in self.tail:
            x = F.relu(conv(x))
        return x, taps
