"""Atrous spatial pyramid pooling with image-level features.

v3 section 3.3 (batch-normalised ASPP, image pooling), v3+ section 3.1 (separable branches); order of
concatenation, gate and pooling window: reference fact 3.2.
"""

from __future__ import annotations

import torch
from torch import nn

from deeplab.config import ASPPConfig, ResizeRule
from deeplab.heads.base import ContextHead
from deeplab.layers.activations import Activation
from deeplab.layers.atrous import scale_rate
from deeplab.layers.containers import ModuleList
from deeplab.layers.conv import ConvNormAct, spatial_conv
from deeplab.layers.norm import NormLayer
from deeplab.layers.pool import window_means
from deeplab.layers.resize import ceil_divide, resize_bilinear, scale_dimension
from deeplab.layers.view import map_mean


class ImagePooling(nn.Module):
    """The image-level feature: mean over the map (or over windows of it), 1x1 convolution, resize back.

    As a gate (MobileNetV3's head) the convolution has a bias and no norm, and ends in a sigmoid.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        config: ASPPConfig,
        norm: NormLayer | None,
        resize: ResizeRule,
    ) -> None:
        super().__init__()
        self.crop = config.image_pooling_crop
        self.stride = config.image_pooling_stride
        self.resize = resize
        # plain ReLU even in bounded models, as in the reference
        self.project = ConvNormAct(
            in_channels,
            config.channels,
            kernel=1,
            norm=None if config.gate else norm,
            activation=config.gate or "relu",
        )

    def forward(self, features: torch.Tensor, output_stride: int, scale: float) -> torch.Tensor:
        """[N, C, h, w] -> [N, D, h, w]."""
        pooled, part = self._pool(features, output_stride, scale)
        return resize_bilinear(self.project(pooled), features.shape[-2:], self.resize, part=part)

    def _pool(
        self, features: torch.Tensor, output_stride: int, scale: float
    ) -> tuple[torch.Tensor, tuple[int, int] | None]:
        if self.crop is None:
            return map_mean(features), None
        pixels = [scale_dimension(side, scale) for side in self.crop]
        # a photo smaller than the window is pooled whole; the reference fails there (fact 3.6)
        window = [
            torch.sym_min(ceil_divide(side, output_stride), length)
            for side, length in zip(pixels, features.shape[-2:], strict=True)
        ]
        return window_means(features, window, self.stride)


class ASPP(ContextHead):
    """Branches side by side: image pooling, 1x1, one 3x3 per rate; concatenated and projected.

    With no rates it is the light head of the mobile models: image pooling and the 1x1 branch. A last 3x3
    (`refine`) is how torchvision and others differ from the paper.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        config: ASPPConfig,
        native_stride: int,
        norm: NormLayer | None,
        resize: ResizeRule,
        activation: Activation,
        depthwise_norm: bool,
    ) -> None:
        super().__init__()
        channels = config.channels
        self.rates = config.rates
        self.native_stride = native_stride
        self.output_stride = native_stride
        self.gated = config.gate is not None
        self.image_pooling = (
            ImagePooling(in_channels, config=config, norm=norm, resize=resize)
            if config.image_pooling
            else None
        )
        self.pointwise = ConvNormAct(in_channels, channels, kernel=1, norm=norm, activation=activation)
        self.atrous = ModuleList(
            spatial_conv(
                in_channels,
                channels,
                separable=config.separable,
                norm=norm,
                activation=activation,
                rate=rate,
                depthwise_norm=depthwise_norm,
            )
            for rate in self.rates
        )
        concatenated = channels * (1 + len(self.rates) + (self.image_pooling is not None and not self.gated))
        self.projection = (
            ConvNormAct(
                concatenated, channels, kernel=config.projection_kernel, norm=norm, activation=activation
            )
            if config.projection
            else None
        )
        self.dropout = nn.Dropout(config.dropout)
        self.refine = (
            spatial_conv(
                channels,
                channels,
                separable=config.separable,
                norm=norm,
                activation=activation,
                depthwise_norm=depthwise_norm,
            )
            if config.refine
            else nn.Identity()
        )
        self.out_channels = channels if config.projection else concatenated

    def set_output_stride(self, output_stride: int) -> None:
        self.output_stride = output_stride
        for branch, rate in zip(self.atrous, self.rates, strict=True):
            branch.set_atrous(1, scale_rate(rate, native=self.native_stride, output_stride=output_stride))

    def forward(
        self, features: torch.Tensor, image_size: tuple[int, int], scale: float = 1.0
    ) -> torch.Tensor:
        pooled = (
            self.image_pooling(features, self.output_stride, scale)
            if self.image_pooling is not None
            else None
        )
        branches = [self.pointwise(features), *(branch(features) for branch in self.atrous)]
        if pooled is not None and not self.gated:
            branches.insert(0, pooled)
        out = self.projected(branches)
        if self.projection is not None:
            out = self.refine(self.dropout(out))
        return out * pooled if pooled is not None and self.gated else out

    def projected(self, branches: list[torch.Tensor]) -> torch.Tensor:
        """The branches side by side, [N, C, h, w] each, and the projection of that where there is one."""
        out = branches[0] if len(branches) == 1 else concatenated(branches)
        return out if self.projection is None else self.projection(out)


def concatenated(branches: list[torch.Tensor]) -> torch.Tensor:
    """Along channels, in the memory order of the last one; torch alone rearranges all where one is a value repeated."""
    last = branches[-1]
    if torch.compiler.is_compiling() or not last.is_contiguous(memory_format=torch.channels_last):
        return torch.cat(branches, 1)
    # along the last axis torch copies whole pixels
    return torch.cat([branch.permute(0, 2, 3, 1) for branch in branches], 3).permute(0, 3, 1, 2)
