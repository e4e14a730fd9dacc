"""ResNet-18/34/50/101/152 (arXiv 1512.03385), plain and 'beta', with multi-grid.

v2 section 4 and v3 sections 3.2 to 3.3; reference fact 2.7. What differs from classification ResNets: in
the reference the stride sits in the *last* unit of a block; PyTorch's and Caffe's weights have it in the
first (`strides_at`). The beta stem is three 3x3 convolutions instead of one 7x7. Behind block4 there may be a
cascade of up to three more blocks like it.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from deeplab.backbones.base import Backbone, Features
from deeplab.config import BasicResNetConfig, BottleneckResNetConfig, StrideUnit
from deeplab.layers.atrous import plan_strides
from deeplab.layers.conv import ConvNormAct
from deeplab.layers.norm import NormLayer
from deeplab.layers.pool import MaxPool

UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
LITE = (18, 34)  # depths of two-convolution units
DEPTHS = (64, 128, 256, 512)
BETA_STEM = {18: (16, 16, 32), 50: (64, 64, 128), 101: (64, 64, 128)}
RELU = nn.ReLU(inplace=True)


class Unit(nn.Module):
    """A residual unit: relu(shortcut(x) + residual(x)).

    Attributes:
        nominal_stride: its stride where nothing is dilated.
        unit_rate: multi-grid's factor on the block's rate.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: NormLayer | None) -> None:
        super().__init__()
        self.nominal_stride = stride
        self.stride = stride
        self.unit_rate = 1
        self.shortcut = (
            None
            if in_channels == out_channels
            else ConvNormAct(in_channels, out_channels, kernel=1, stride=stride, norm=norm, activation=None)
        )

    def set_atrous(self, stride: int, rate: int) -> None:
        """Change stride and rate of every convolution concerned."""
        self.stride = stride
        if self.shortcut is not None:
            self.shortcut.set_atrous(stride, 1)
        self.set_residual_atrous(stride, rate * self.unit_rate)

    def set_residual_atrous(self, stride: int, rate: int) -> None:
        """Change stride and rate inside the residual branch."""
        raise NotImplementedError

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """What the last convolution of the residual branch reads."""
        raise NotImplementedError

    def last(self) -> ConvNormAct:
        """The residual branch's last convolution: linear."""
        raise NotImplementedError

    def skipped(self, x: torch.Tensor) -> torch.Tensor:
        """What the residual is added to."""
        if self.shortcut is not None:
            return self.shortcut(x)
        return x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last().joined(self.hidden(x), self.skipped(x), RELU)

    def with_residual(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The output and the residual before addition and activation, the decoder's end point."""
        residual = self.last()(self.hidden(x))
        return RELU(self.skipped(x) + residual), residual


class Bottleneck(Unit):
    """1x1 - 3x3 (rate) - 1x1 to four times the depth; the 3x3 has the stride, or Caffe's first 1x1."""

    def __init__(
        self, in_channels: int, depth: int, *, stride: int, norm: NormLayer | None, strides_at: StrideUnit
    ) -> None:
        super().__init__(in_channels, 4 * depth, stride=stride, norm=norm)
        self.strides_at = strides_at
        self.conv1 = ConvNormAct(in_channels, depth, kernel=1, norm=norm, activation="relu")
        self.conv2 = ConvNormAct(
            depth, depth, kernel=3, stride=stride, norm=norm, activation="relu", padding_rule="symmetric"
        )
        self.conv3 = ConvNormAct(depth, 4 * depth, kernel=1, norm=norm, activation=None)

    def set_residual_atrous(self, stride: int, rate: int) -> None:
        entry = self.strides_at == "first_1x1"
        self.conv1.set_atrous(stride if entry else 1, 1)
        self.conv2.set_atrous(1 if entry else stride, rate)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x))

    def last(self) -> ConvNormAct:
        return self.conv3


class LiteUnit(Unit):
    """Two 3x3 convolutions, both at the rate; the strided one is the second, or PyTorch's first."""

    def __init__(
        self, in_channels: int, depth: int, *, stride: int, norm: NormLayer | None, strides_at: StrideUnit
    ) -> None:
        super().__init__(in_channels, depth, stride=stride, norm=norm)
        self.strides_at = strides_at
        self.conv1 = ConvNormAct(
            in_channels, depth, kernel=3, norm=norm, activation="relu", padding_rule="symmetric"
        )
        self.conv2 = ConvNormAct(depth, depth, kernel=3, norm=norm, activation=None, padding_rule="symmetric")

    def set_residual_atrous(self, stride: int, rate: int) -> None:
        first = self.strides_at == "first"
        self.conv1.set_atrous(stride if first else 1, rate)
        self.conv2.set_atrous(1 if first else stride, rate)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv1(x)

    def last(self) -> ConvNormAct:
        return self.conv2


class ResNet(Backbone):
    """Stem, pooling, four blocks of units, and a cascade of more.

    End points at 4, 8, 16: with `strides_at='last'` the residual (before addition and activation) of the
    last unstrided unit of blocks 1 to 3, as in the reference; otherwise those blocks' outputs, as PyTorch
    libraries use them.

    `multi_grid` are unit rates of block4 and of the cascade. Each block of the cascade has twice the stride of
    the one before, so twice its rate where the output stride is held (v3 section 3.2).

    Raises:
        ValueError: multi_grid of another length than block4.
    """

    def __init__(self, config: BasicResNetConfig | BottleneckResNetConfig, norm: NormLayer | None) -> None:
        super().__init__()
        plain, _, beta = config.name.partition("_")
        depth = int(plain.removeprefix("resnet"))
        multi_grid, strides_at = config.multi_grid, config.strides_at
        units = UNITS[depth]
        if multi_grid and len(multi_grid) != units[3]:
            raise ValueError(
                f"multi_grid needs {units[3]} rates for resnet{depth}, one for each unit of block4; "
                f"found {multi_grid}"
            )
        self.stem = _stem(config.in_channels, config.stem or (BETA_STEM[depth] if beta else ()), norm=norm)
        self.pool = MaxPool(stride=2, padding_rule=config.padding)
        channels = self.stem[-1].conv.out_channels
        lite = depth in LITE
        blocks = []
        last = len(units) - 1
        shapes = [*zip(units, DEPTHS, strict=True), *[(units[last], DEPTHS[last])] * config.cascade]
        for number, (count, width) in enumerate(shapes):
            block = nn.ModuleList()
            for index in range(count):
                ends_block = index == count - 1 and number + 1 < len(shapes)
                stride = 2 if (ends_block if strides_at == "last" else number > 0 and index == 0) else 1
                kind = LiteUnit if lite else Bottleneck
                unit = kind(channels, width, stride=stride, norm=norm, strides_at=strides_at)
                if number >= last and multi_grid:
                    unit.unit_rate = multi_grid[index]
                channels = width if lite else 4 * width
                block.append(unit)
            blocks.append(block)
        self.blocks = nn.ModuleList(blocks)
        self.strides_at = strides_at
        self.rate_grows_at = config.rate_grows_at
        self.out_channels = channels
        self.low_level_channels = {4 << i: (1 if lite else 4) * DEPTHS[i] for i in range(3)}

    def set_output_stride(self, output_stride: int) -> None:
        units = [unit for block in self.blocks for unit in block]
        nominal = [2, *(1 for _ in self.stem[1:]), 2, *(unit.nominal_stride for unit in units)]
        plan = plan_strides(nominal, output_stride, rate_grows_at=self.rate_grows_at)
        for part, atrous in zip([*self.stem, self.pool, *units], plan, strict=True):
            part.set_atrous(*atrous)

    def forward(self, x: torch.Tensor, low_level: Collection[int] = ()) -> Features:
        taps = {}
        x = self.pool(self.stem(x))
        for number, block in enumerate(self.blocks):
            stride = 4 << number
            for index, unit in enumerate(block):
                if stride in low_level and self.strides_at == "last" and index == len(block) - 2:
                    x, taps[stride] = unit.with_residual(x)
                else:
                    x = unit(x)
            if stride in low_level and self.strides_at != "last":
                taps[stride] = x
        return x, taps


def _stem(in_channels: int, widths: tuple[int, ...], *, norm: NormLayer | None) -> nn.Sequential:
    layers = []
    for index, width in enumerate(widths or (64,)):
        layers.append(
            ConvNormAct(
                in_channels,
                width,
                kernel=3 if widths else 7,
                stride=2 if index == 0 else 1,
                norm=norm,
                activation="relu",
                padding_rule="symmetric",
            )
        )
        in_channels = width
    return nn.Sequential(*layers)
