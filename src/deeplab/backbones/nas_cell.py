"""A searched cell: five sums of two operations, concatenated (reference fact 2.9).

PNASNet-5: arXiv 1712.00559 figure 1; Auto-DeepLab: arXiv 1901.02985 figure 3.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from deeplab.backbones.nas_operations import make_operation
from deeplab.layers.conv import ConvNormAct
from deeplab.layers.norm import NormLayer
from deeplab.layers.resize import resize_bilinear

# what a cell does to the size of the map
Change = Literal["same", "down", "up"]
# a combination: (operation, state it reads) left and right; state 0 is the cell's input, 1 the output of
# the cell before the previous one, 2 the first combination, and so on
Edge = tuple[str, int]
Genotype = tuple[tuple[Edge, Edge], ...]

PNASNET: Genotype = (
    (("separable_5x5", 1), ("max_pool_3x3", 1)),
    (("separable_7x7", 0), ("max_pool_3x3", 0)),
    (("separable_5x5", 0), ("separable_3x3", 0)),
    (("separable_3x3", 4), ("max_pool_3x3", 0)),
    (("separable_3x3", 1), ("none", 0)),
)
AUTO_DEEPLAB: Genotype = (
    (("atrous_5x5", 1), ("separable_3x3", 0)),
    (("separable_3x3", 1), ("atrous_3x3", 0)),
    (("separable_3x3", 3), ("separable_3x3", 1)),
    (("separable_5x5", 4), ("separable_5x5", 2)),
    (("separable_5x5", 3), ("atrous_5x5", 5)),
)


class Cell(nn.Module):
    """The outputs of the two cells before -> [N, 5 * filters, h, w], not rectified.

    Args:
        in_channels: of the previous cell's output.
        earlier_channels: of the output of the cell before that one.
        filters: channels of every state.
        change: 'down' halves the map inside the cell, 'up' doubles the input before it.
        resize_earlier: whether sizes exist at which the two inputs' maps differ.
        keep: of the cell's drop path.
    """

    def __init__(
        self,
        in_channels: int,
        earlier_channels: int,
        filters: int,
        *,
        genotype: Genotype,
        change: Change,
        resize_earlier: bool,
        norm: NormLayer | None,
        keep: float,
    ) -> None:
        super().__init__()
        self.grows = change == "up"
        self.resize_earlier = resize_earlier
        self.genotype = genotype
        self.out_channels = len(genotype) * filters
        self.current = ConvNormAct(in_channels, filters, kernel=1, norm=norm, activation=None)
        self.earlier = (
            None
            if earlier_channels == filters
            else ConvNormAct(earlier_channels, filters, kernel=1, norm=norm, activation=None)
        )

        def operation(edge: Edge) -> nn.Sequential:
            stride = 2 if change == "down" and edge[1] < 2 else 1
            return make_operation(edge[0], filters, stride=stride, norm=norm, keep=keep)

        self.left = nn.ModuleList(operation(left) for left, _ in genotype)
        self.right = nn.ModuleList(operation(right) for _, right in genotype)

    def forward(self, x: torch.Tensor, earlier: torch.Tensor) -> torch.Tensor:
        """`x` [N, in_channels, h, w]; `earlier` [N, earlier_channels, any size] is resized to fit."""
        if self.grows:
            x = resize_bilinear(x, [2 * side - 1 for side in x.shape[-2:]], "align_corners")
        if self.resize_earlier:
            earlier = resize_bilinear(earlier, x.shape[-2:], "align_corners")
        if self.earlier is not None:
            earlier = self.earlier(F.relu(earlier))
        states = [self.current(F.relu(x)), earlier]
        edges = zip(self.genotype, self.left, self.right, strict=True)
        for ((_, left_state), (_, right_state)), left, right in edges:
            states.append(left(states[left_state]) + right(states[right_state]))
        return torch.cat(states[2:], 1)
