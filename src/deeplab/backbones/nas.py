"""Searched networks: PNASNet (arXiv 1712.00559) and Auto-DeepLab's hnasnet (arXiv 1901.02985).

Reference fact 2.9. Twelve cells, each at a level: 0 is stride 4, 3 is stride 32. hnasnet goes down to
stride 32 and comes back to 8 by doubling (n -> 2n - 1, corners aligned), so on sizes other than 32k + 1 its
last map is smaller than a stride of 8 would give, as in the reference; prefer 32k + 1.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from deeplab.backbones.base import Backbone, Features
from deeplab.backbones.nas_cell import AUTO_DEEPLAB, PNASNET, Cell, Change
from deeplab.config import HNASNetConfig, PNASNetConfig
from deeplab.layers.containers import ModuleDict
from deeplab.layers.conv import ConvNormAct
from deeplab.layers.norm import NormLayer

# level of each cell; PNASNet's by the stride of its last cell
HNASNET_LEVELS = (0, 0, 0, 1, 2, 1, 2, 2, 3, 3, 2, 1)
PNASNET_LEVELS = {8: (1,) * 12, 16: (1,) * 4 + (2,) * 8, 32: (1,) * 4 + (2,) * 4 + (3,) * 4}
# nominal stride -> cell whose output feeds the decoder; the stem's is not a cell
STEM = -1
HNASNET_END_POINTS = {4: 2, 8: 5, 16: 7}
PNASNET_END_POINTS = {4: STEM, 8: 3, 16: 7}
CLASSIFICATION_WIDTHS = {8: 256, 16: 512, 32: 1024}


class ClassificationHead(nn.Module):
    """3x3 convolutions from the cells' stride on to 32, then a 1x1 to 2048 channels.

    Here a convolution whose stride is taken away is itself dilated, unlike in the other backbones.
    """

    out_channels = 2048

    def __init__(self, in_channels: int, cells_stride: int, *, norm: NormLayer | None) -> None:
        super().__init__()
        self.downsample: ModuleDict[ConvNormAct] = ModuleDict()
        for stride, width in CLASSIFICATION_WIDTHS.items():
            if stride > cells_stride:
                self.downsample[f"os{stride}"] = ConvNormAct(
                    in_channels,
                    width,
                    kernel=3,
                    stride=2,
                    norm=norm,
                    activation="relu",
                    padding_rule="symmetric",
                )
                in_channels = width
        self.expand = ConvNormAct(in_channels, self.out_channels, kernel=1, norm=norm, activation="relu")

    def set_remaining_stride(self, remaining: int) -> None:
        """Output stride over the cells' stride: this much comes from strides, the rest becomes rates."""
        rate = 1
        for conv in self.downsample.values():
            if remaining > 1:
                conv.set_atrous(2, 1)
                remaining //= 2
            else:
                rate *= 2
                conv.set_atrous(1, rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.downsample.values():
            x = conv(x)
        return self.expand(x)


class NASNet(Backbone):
    """Stem, twelve cells, ReLU, and a classification head if asked for.

    End points are outputs of cells (for PNASNet at 4: of the stem), not rectified. The cells' own stride
    cannot change after building, since their widths follow from it; a classification head can be run at
    any stride from there to 32.
    """

    def __init__(self, config: PNASNetConfig | HNASNetConfig, norm: NormLayer | None) -> None:
        super().__init__()
        hierarchical = isinstance(config, HNASNetConfig)
        # hnasnet comes back from stride 32, and so to multiples of what 32 left
        self.on_grid = not hierarchical
        levels = HNASNET_LEVELS if hierarchical else PNASNET_LEVELS[config.stride]
        ends_early = config.remove_os32_stride and not hierarchical
        self.cells_stride = 16 if ends_early else config.stride
        self.stem = _stem(config.in_channels, norm=norm)
        channels, cells = [64, 128], []
        changes = _changes(levels, remove_os32_stride=config.remove_os32_stride)
        resizes = _resizes(changes)
        for number, (level, change, resize) in enumerate(zip(levels, changes, resizes, strict=True)):
            cell = Cell(
                channels[-1],
                channels[-2],
                config.filters * 2**level,
                genotype=AUTO_DEEPLAB if hierarchical else PNASNET,
                change=change,
                resize_earlier=resize,
                norm=norm,
                keep=1 - (number + 1) / len(levels) * (1 - config.drop_path_keep),
            )
            channels.append(cell.out_channels)
            cells.append(cell)
        self.cells = nn.ModuleList(cells)
        self.head = None
        self.out_channels = channels[-1]
        if config.classification_head:
            self.head = ClassificationHead(channels[-1], config.stride, norm=norm)
            self.out_channels = self.head.out_channels
        self.end_points = HNASNET_END_POINTS if hierarchical else PNASNET_END_POINTS
        self.low_level_channels = {stride: channels[2 + index] for stride, index in self.end_points.items()}

    def set_output_stride(self, output_stride: int) -> None:
        steps = len(self.head.downsample) if self.head else 0
        reachable = [self.cells_stride << step for step in range(steps + 1)]
        if output_stride not in reachable:
            raise ValueError(
                f"output stride {output_stride} cannot be reached by these cells; choose one of {reachable}, "
                "or build others: backbone.stride sets PNASNet's, classification_head goes on to 32"
            )
        if self.head:
            self.head.set_remaining_stride(output_stride // self.cells_stride)

    def forward(self, x: torch.Tensor, low_level: Collection[int] = ()) -> Features:
        wanted = {self.end_points[stride]: stride for stride in low_level}
        earlier = self.stem[1](self.stem[0](x))
        x = self.stem[2](F.relu(earlier))
        taps = {wanted[STEM]: x} if STEM in wanted else {}
        for index, cell in enumerate(self.cells):
            x, earlier = cell(x, earlier), x
            if index in wanted:
                taps[wanted[index]] = x
        x = F.relu(x)
        return x if self.head is None else self.head(x), taps


def _changes(levels: tuple[int, ...], *, remove_os32_stride: bool) -> list[Change]:
    changes: list[Change] = []
    for before, level in pairwise((0, *levels)):
        same = level == before or (remove_os32_stride and max(level, before) == 3)
        changes.append("same" if same else "down" if level > before else "up")
    return changes


def _resizes(changes: list[Change]) -> list[bool]:
    """For each cell, whether its two inputs' sizes can differ; doubling undoes no halving of an even size."""
    sizes, resizes = ["-", "--"], []
    for change in changes:
        entering = sizes[-1] + ("+" if change == "up" else "")
        resizes.append(sizes[-2] != entering)
        sizes.append((entering + "-").replace("+-", "") if change == "down" else entering)
    return resizes


def _stem(in_channels: int, *, norm: NormLayer | None) -> nn.Sequential:
    first = ConvNormAct(
        in_channels, 64, kernel=3, stride=2, norm=norm, activation="relu", padding_rule="symmetric"
    )
    # the other two are used before they are rectified
    second = ConvNormAct(64, 64, kernel=3, norm=norm, activation=None)
    third = ConvNormAct(64, 128, kernel=3, stride=2, norm=norm, activation=None, padding_rule="symmetric")
    return nn.Sequential(first, second, third)
