"""v3+'s decoder: upsample, add detail from low-level features, refine.

v3+ section 3.1 and table 1 to 2; several strides, sum merge and decoder-as-logits: reference fact 3.4.
"""

from __future__ import annotations

import torch
from torch import nn

from deeplab.config import DecoderConfig, ResizeRule
from deeplab.layers.activations import Activation
from deeplab.layers.conv import ConvNormAct, spatial_conv
from deeplab.layers.norm import NormLayer
from deeplab.layers.resize import ceil_divide, resize_bilinear


class DecoderStage(nn.Module):
    """One refinement at one stride."""

    def __init__(
        self,
        in_channels: int,
        low_level_channels: int,
        *,
        config: DecoderConfig,
        norm: NormLayer | None,
        activation: Activation | None,
        resize: ResizeRule,
        depthwise_norm: bool,
    ) -> None:
        super().__init__()
        self.merge = config.merge
        self.resize = resize
        channels = config.channels
        reduced = config.low_level_channels if config.merge == "concat" else channels
        self.project = ConvNormAct(low_level_channels, reduced, kernel=1, norm=norm, activation=activation)
        if config.merge == "sum" and config.output_is_logits:
            convs: list[nn.Module] = [
                ConvNormAct(in_channels, channels, kernel=1, norm=None, activation=None)
            ]
        else:
            widths = [in_channels + reduced, channels][: config.convs]
            if config.merge == "sum":
                widths = [in_channels]
            separable = config.separable and not config.output_is_logits
            convs = [
                spatial_conv(
                    width,
                    channels,
                    separable=separable,
                    norm=norm,
                    activation=activation,
                    depthwise_norm=depthwise_norm,
                )
                for width in widths
            ]
        self.convs = nn.Sequential(*convs)

    def forward(self, x: torch.Tensor, low_level: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Both inputs are resized to `size` (height, width of the stage's stride)."""
        detail = resize_bilinear(self.project(low_level), size, self.resize)
        if self.merge == "sum":
            return self.convs(resize_bilinear(x, size, self.resize)) + detail
        return self.refined(x, detail)

    def refined(self, x: torch.Tensor, detail: torch.Tensor) -> torch.Tensor:
        """The convolutions of x, resized to detail's size, and detail behind it."""
        x = resize_bilinear(x, detail.shape[-2:], self.resize)
        return self.convs(torch.cat([x, detail], 1))


class Decoder(nn.Module):
    """Stages at descending strides; the result has the last stride's size."""

    def __init__(
        self,
        in_channels: int,
        *,
        low_level_channels: dict[int, int],
        config: DecoderConfig,
        norm: NormLayer | None,
        activation: Activation,
        resize: ResizeRule,
        depthwise_norm: bool,
    ) -> None:
        super().__init__()
        self.strides = config.strides
        self.out_channels = config.channels
        logits = config.output_is_logits
        stages = []
        for stride in config.strides:
            stages.append(
                DecoderStage(
                    in_channels,
                    low_level_channels[stride],
                    config=config,
                    norm=None if logits else norm,
                    activation=None if logits else activation,
                    resize=resize,
                    depthwise_norm=depthwise_norm,
                )
            )
            in_channels = config.channels
        self.stages = nn.ModuleList(stages)

    def forward(
        self, x: torch.Tensor, low_level: dict[int, torch.Tensor], image_size: tuple[int, int]
    ) -> torch.Tensor:
        """Context features and low-level end points -> [N, channels, ceil(H / s), ceil(W / s)]."""
        for stride, stage in zip(self.strides, self.stages, strict=True):
            size = tuple(ceil_divide(side, stride) for side in image_size)
            x = stage(x, low_level[stride], size)
        return x
