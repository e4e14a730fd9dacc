"""v1's MSc: shallow features of the image and of the first four poolings, beside the deep ones.

v1 section 3.3: each goes through a 3x3 and a 1x1 convolution, 128 channels and ReLU each, and is concatenated
with the network's last features, 5 x 128 channels more for the classifier. The 3x3 has the stride that
brings its input to the output stride, and no norm, as VGG-16 has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from deeplab.config import ResizeRule
from deeplab.layers.containers import ModuleList, Sequential
from deeplab.layers.conv import ConvNormAct
from deeplab.layers.resize import resize_bilinear

# nominal strides of the image and of VGG-16's first four poolings
NOMINAL_STRIDES = (1, 2, 4, 8, 16)


class MultiScaleFeatures(nn.Module):
    """Five branches beside the features: [N, C, h, w] -> [N, C + 5 * channels, h, w].

    Args:
        in_channels: of the image and of the four poolings.
        native_stride: output stride at which every rate is 1; denser ones dilate, as in the backbone.

    Attributes:
        added_channels: channels that join the features.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        native_stride: int,
        resize: ResizeRule,
    ) -> None:
        super().__init__()
        self.native_stride = native_stride
        self.resize = resize
        self.added_channels = channels * len(NOMINAL_STRIDES)
        self.branches = ModuleList(
            Sequential(
                ConvNormAct(
                    width, channels, kernel=3, norm=None, activation="relu", padding_rule="symmetric"
                ),
                ConvNormAct(channels, channels, kernel=1, norm=None, activation="relu"),
            )
            for width, _ in zip(in_channels, NOMINAL_STRIDES, strict=True)
        )

    def set_output_stride(self, output_stride: int) -> None:
        """Re-derive the branches' strides and rates."""
        for branch, nominal in zip(self.branches, NOMINAL_STRIDES, strict=True):
            present = min(nominal, output_stride)
            rate = max(1, min(nominal, self.native_stride) // present)
            branch[0].set_atrous(output_stride // present, rate)

    def forward(self, features: torch.Tensor, shallow: Sequence[torch.Tensor]) -> torch.Tensor:
        """Concatenate `features` with what the branches make of the image and the poolings.

        On sizes k * stride + 1 all agree; on others a pooling that rounds sizes up leaves the maps one
        position apart, and the branches are resized to the features.
        """
        added = [
            resize_bilinear(branch(source), features.shape[-2:], self.resize)
            for branch, source in zip(self.branches, shallow, strict=True)
        ]
        return torch.cat([features, *added], 1)
