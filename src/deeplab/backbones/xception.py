"""Aligned Xception-41/65/71 as DeepLab modified it.

v3+ section 3.2 and figure 4; reference fact 2.8. What differs from the classification network (arXiv
1610.02357): more layers, every max pooling is a strided separable convolution, and batch norm follows each
depthwise step. Strided convolutions pad explicitly. The bounded variant, made for quantisation, keeps
every value within 6 and pads its modules as TensorFlow's SAME does.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

import torch
from torch import nn

from deeplab.backbones.base import Backbone, Features
from deeplab.config import XceptionConfig
from deeplab.layers.atrous import plan_strides
from deeplab.layers.conv import ConvNormAct, SeparableConv
from deeplab.layers.norm import NormLayer


class Layout(NamedTuple):
    """What sets the depths apart: (channels, stride) of the entry modules, length of the middle flow, and
    the entry modules that hold the decoder's end points 4 and 8."""

    entry: tuple[tuple[int, int], ...]
    middle: int
    end_points: tuple[int, int]


LAYOUTS = {
    "xception41": Layout(((128, 2), (256, 2), (728, 2)), 8, (1, 2)),
    "xception65": Layout(((128, 2), (256, 2), (728, 2)), 16, (1, 2)),
    "xception71": Layout(((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)), 16, (2, 4)),
}


class XceptionModule(nn.Module):
    """Three separable convolutions, the stride in the third, and a shortcut.

    Args:
        widths: channels of each of the three separable convolutions.
        skip: the shortcut is a strided 1x1 'conv', the input itself ('sum'), or 'none'.
        activate_inside: activate after each depthwise and pointwise step instead of before each separable
            convolution.
        bounded: activations end at 6, linear outputs are clipped to [-6, 6], padding is TensorFlow's SAME.
        unit_rates: multi-grid's factor on the rate, one for each separable convolution.

    Attributes:
        nominal_stride: its stride where nothing is dilated.
    """

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, ...],
        *,
        skip: Literal["conv", "sum", "none"],
        stride: int,
        norm: NormLayer | None,
        bounded: bool,
        activate_inside: bool = False,
        unit_rates: tuple[int, ...] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.nominal_stride = stride
        self.unit_rates = unit_rates
        self.adds_input = skip == "sum"
        relu, linear = ("relu6", "clip6") if bounded else ("relu", None)
        rectifier = nn.ReLU6 if bounded else nn.ReLU
        self.before = nn.Identity() if activate_inside else rectifier()
        self.convs = nn.ModuleList(
            SeparableConv(
                inner,
                outer,
                norm=norm,
                activation=relu if activate_inside else linear,
                padding_rule="same" if bounded else "symmetric",
            )
            for inner, outer in zip((in_channels, *widths), widths, strict=False)
        )
        self.shortcut = None
        if skip == "conv":
            self.shortcut = ConvNormAct(in_channels, widths[-1], kernel=1, norm=norm, activation=linear)
        # everything that is added lies within 6 already: residual and shortcut are clipped, inputs rectified
        self.after = nn.ReLU6() if bounded and skip != "none" else nn.Identity()
        self.set_atrous(stride, 1)

    def set_atrous(self, stride: int, rate: int) -> None:
        """Change the stride (third convolution and shortcut) and the rate of all three."""
        for conv, unit_rate in zip(self.convs, self.unit_rates, strict=True):
            conv.set_atrous(1, rate * unit_rate)
        self.convs[-1].set_atrous(stride, rate * self.unit_rates[-1])
        if self.shortcut is not None:
            self.shortcut.set_atrous(stride, 1)

    def begin(self, x: torch.Tensor) -> torch.Tensor:
        """The first two separable convolutions, not rectified: the decoder's end point."""
        for conv in self.convs[:-1]:
            x = conv(self.before(x))
        return x

    def finish(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """The module's output from its input `x` and what `begin` gave."""
        residual = self.convs[-1](self.before(hidden))
        if self.shortcut is not None:
            residual = residual + self.shortcut(x)
        elif self.adds_input:
            residual = residual + x
        return self.after(residual)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.finish(x, self.begin(x))


class Xception(Backbone):
    """Two 3x3 convolutions, then entry, middle and exit flow: 2048 rectified channels.

    End points at 4, 8, 16: output of the second separable convolution (not rectified) of the module that
    leaves that stride.

    Args:
        bounded: the variant for quantisation.

    Raises:
        ValueError: multi_grid of another length than 3.
    """

    def __init__(self, config: XceptionConfig, norm: NormLayer | None, *, bounded: bool) -> None:
        super().__init__()
        unit_rates = config.multi_grid or (1, 1, 1)
        if len(unit_rates) != 3:
            raise ValueError(
                f"multi_grid needs 3 rates for {config.name}, one for each convolution of its last module; "
                f"found {unit_rates}"
            )
        layout = LAYOUTS[config.name]
        self.stem = _stem(config.in_channels, norm=norm, bounded=bounded)
        self.entry = _entry_flow(layout, norm=norm, bounded=bounded)
        self.middle = nn.ModuleList(
            XceptionModule(728, (728, 728, 728), skip="sum", stride=1, norm=norm, bounded=bounded)
            for _ in range(layout.middle)
        )
        self.exit = _exit_flow(unit_rates, norm=norm, bounded=bounded)
        self.out_channels = 2048
        modules = self.modules_in_order()
        self.end_points = {4: layout.end_points[0], 8: layout.end_points[1], 16: modules.index(self.exit[0])}
        self.low_level_channels = {
            stride: modules[index].convs[1].pointwise.conv.out_channels
            for stride, index in self.end_points.items()
        }

    def modules_in_order(self) -> list[XceptionModule]:
        """Entry, middle and exit flow as one list."""
        return [*self.entry, *self.middle, *self.exit]

    def set_output_stride(self, output_stride: int) -> None:
        parts = [*self.stem, *self.modules_in_order()]
        nominal = [2, 1, *(module.nominal_stride for module in self.modules_in_order())]
        for part, atrous in zip(parts, plan_strides(nominal, output_stride), strict=True):
            part.set_atrous(*atrous)

    def forward(self, x: torch.Tensor, low_level: Collection[int] = ()) -> Features:
        wanted = {self.end_points[stride]: stride for stride in low_level}
        taps = {}
        x = self.stem(x)
        for index, module in enumerate(self.modules_in_order()):
            hidden = module.begin(x)
            if index in wanted:
                taps[wanted[index]] = hidden
            x = module.finish(x, hidden)
        return x, taps


def _stem(in_channels: int, *, norm: NormLayer | None, bounded: bool) -> nn.Sequential:
    activation = "relu6" if bounded else "relu"
    return nn.Sequential(
        ConvNormAct(
            in_channels, 32, kernel=3, stride=2, norm=norm, activation=activation, padding_rule="symmetric"
        ),
        ConvNormAct(32, 64, kernel=3, norm=norm, activation=activation),
    )


def _entry_flow(layout: Layout, *, norm: NormLayer | None, bounded: bool) -> nn.ModuleList:
    channels, modules = 64, nn.ModuleList()
    for width, stride in layout.entry:
        modules.append(
            XceptionModule(channels, (width,) * 3, skip="conv", stride=stride, norm=norm, bounded=bounded)
        )
        channels = width
    return modules


def _exit_flow(multi_grid: tuple[int, ...], *, norm: NormLayer | None, bounded: bool) -> nn.ModuleList:
    return nn.ModuleList(
        [
            XceptionModule(728, (728, 1024, 1024), skip="conv", stride=2, norm=norm, bounded=bounded),
            XceptionModule(
                1024,
                (1536, 1536, 2048),
                skip="none",
                stride=1,
                norm=norm,
                bounded=bounded,
                activate_inside=True,
                unit_rates=multi_grid,
            ),
        ]
    )
