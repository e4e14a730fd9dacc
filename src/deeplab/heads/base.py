"""What a context head promises to the model."""

from __future__ import annotations

import torch
from torch import nn


class ContextHead(nn.Module):
    """Features to features of the same height and width.

    Attributes:
        out_channels: channels of the result.
    """

    out_channels: int

    def set_output_stride(self, output_stride: int) -> None:
        """Re-derive atrous rates from those stated at the native output stride."""
        raise NotImplementedError

    def forward(
        self, features: torch.Tensor, image_size: tuple[int, int], scale: float = 1.0
    ) -> torch.Tensor:
        """Context for each position.

        Args:
            features: float [N, C, h, w].
            image_size: height and width of the image they were made from, in pixels.
            scale: of that image in an image pyramid; pooling windows stated in pixels shrink with it.
        """
        raise NotImplementedError


class NoContext(ContextHead):
    """Passes features on: v2's ResNet, whose classifier itself has the atrous rates."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = in_channels

    def set_output_stride(self, output_stride: int) -> None:
        """Nothing here has a rate."""

    def forward(
        self, features: torch.Tensor, image_size: tuple[int, int], scale: float = 1.0
    ) -> torch.Tensor:
        return features
