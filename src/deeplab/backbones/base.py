"""What a backbone promises to the model."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

Features = tuple[torch.Tensor, dict[int, torch.Tensor]]


class Backbone(nn.Module):
    """Image to features, at any output stride its strides can reach.

    Attributes:
        out_channels: channels of the last feature map.
        low_level_channels: channels of the decoder's end point at each nominal stride (4, 8, 16); the
            map's real stride is never above the output stride.
        on_grid: whether feature maps are ceil(H / OS) x ceil(W / OS) at every size.
    """

    out_channels: int
    low_level_channels: dict[int, int]
    on_grid: bool = True

    def set_output_stride(self, output_stride: int) -> None:
        """Re-derive strides and rates; raises ValueError for an unreachable output stride."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor, low_level: Collection[int] = ()) -> Features:
        """Features of a normalised image.

        Args:
            x: float [N, in_channels, H, W].
            low_level: nominal strides of the wanted decoder end points.

        Returns:
            the last feature map [N, out_channels, ~H / OS, ~W / OS] and the end points by nominal stride.
        """
        raise NotImplementedError
