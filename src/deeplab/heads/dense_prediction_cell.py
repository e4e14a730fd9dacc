"""Dense prediction cell: a searched head of branches that feed one another.

arXiv 1809.04184; operations, rates and pooling windows: reference fact 3.3. Every branch reads the
features or an earlier branch, all are concatenated, dropped out and projected.
"""

from __future__ import annotations

import torch
from torch import nn

from deeplab.config import ConvBranch, DensePredictionCellConfig, PyramidBranch, ResizeRule
from deeplab.heads.base import ContextHead
from deeplab.layers.atrous import scale_rate
from deeplab.layers.conv import ConvNormAct, SeparableConv
from deeplab.layers.norm import NormLayer
from deeplab.layers.pool import window_means
from deeplab.layers.resize import resize_bilinear, scale_dimension

# a cell's JSON states its rates at this output stride, whatever the model's own
NATIVE_STRIDE = 16

# the published cell, best of the search on Cityscapes (arXiv 1809.04184 figure 5; fact 3.3)
CITYSCAPES_CELL = (
    ConvBranch(input=-1, rate=(1, 6)),
    ConvBranch(input=0, rate=(18, 15)),
    ConvBranch(input=1, rate=(6, 3)),
    ConvBranch(input=0, rate=(1, 1)),
    ConvBranch(input=0, rate=(6, 21)),
)


class PyramidPooling(nn.Module):
    """Means over sliding windows of 1 / grid of the image, 1x1 convolution, resize back.

    The windows lie wholly inside the map and move by one position, so a grid of (1, 1) gives one mean.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        grid: tuple[int, int],
        norm: NormLayer | None,
        resize: ResizeRule,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.resize = resize
        self.project = ConvNormAct(in_channels, channels, kernel=1, norm=norm, activation="relu")

    def forward(self, x: torch.Tensor, image_size: tuple[int, int], output_stride: int) -> torch.Tensor:
        """[N, C, h, w] of an image of `image_size` pixels -> [N, channels, h, w]."""
        size = tuple(x.shape[-2:])
        # scale_dimension(side, 1 / (output_stride * parts)) in integers, which export can follow;
        # a photo smaller than the window is pooled whole, where the reference fails
        window = [
            torch.sym_min((side - 1) // (output_stride * parts) + 1, length)
            for side, parts, length in zip(image_size, self.grid, size, strict=True)
        ]
        pooled, part = window_means(x, window)
        return resize_bilinear(self.project(pooled), size, self.resize, part=part)


class DensePredictionCell(ContextHead):
    """The cell of `config.branches`: [N, C, h, w] -> [N, config.channels, h, w].

    Every layer activates by plain ReLU, in bounded models too, as in the reference. `image_pooling_crop`
    replaces the image's size in the pooling windows.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        config: DensePredictionCellConfig,
        norm: NormLayer | None,
        resize: ResizeRule,
    ) -> None:
        super().__init__()
        self.specs = config.branches
        self.crop = config.image_pooling_crop
        self.output_stride = NATIVE_STRIDE
        channels = config.channels
        self.branches = nn.ModuleList(
            _branch(
                in_channels if spec.input < 0 else channels, channels, spec=spec, norm=norm, resize=resize
            )
            for spec in self.specs
        )
        self.dropout = nn.Dropout(config.dropout)
        self.projection = ConvNormAct(
            channels * len(self.specs), channels, kernel=1, norm=norm, activation="relu"
        )
        self.out_channels = channels

    def set_output_stride(self, output_stride: int) -> None:
        self.output_stride = output_stride
        for spec, branch in zip(self.specs, self.branches, strict=True):
            if isinstance(spec, ConvBranch):
                vertical, horizontal = (
                    scale_rate(rate, native=NATIVE_STRIDE, output_stride=output_stride) for rate in spec.rate
                )
                branch.set_atrous(1, (vertical, horizontal))

    def forward(
        self, features: torch.Tensor, image_size: tuple[int, int], scale: float = 1.0
    ) -> torch.Tensor:
        if self.crop is not None:
            image_size = (scale_dimension(self.crop[0], scale), scale_dimension(self.crop[1], scale))
        outputs: list[torch.Tensor] = []
        for spec, branch in zip(self.specs, self.branches, strict=True):
            source = features if spec.input < 0 else outputs[spec.input]
            if isinstance(branch, PyramidPooling):
                outputs.append(branch(source, image_size, self.output_stride))
            else:
                outputs.append(branch(source))
        return self.projection(self.dropout(torch.cat(outputs, 1)))


def _branch(
    in_channels: int,
    channels: int,
    *,
    spec: ConvBranch | PyramidBranch,
    norm: NormLayer | None,
    resize: ResizeRule,
) -> PyramidPooling | SeparableConv | ConvNormAct:
    if isinstance(spec, PyramidBranch):
        return PyramidPooling(in_channels, channels, grid=spec.grid_size, norm=norm, resize=resize)
    if spec.kernel == 1:
        return ConvNormAct(in_channels, channels, kernel=1, norm=norm, activation="relu")
    return SeparableConv(
        in_channels, channels, kernel=spec.kernel, rate=spec.rate, norm=norm, activation="relu"
    )
