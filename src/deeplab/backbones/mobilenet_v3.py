"""MobileNetV3 large and small (arXiv 1905.02244), whole and with the halved tail of segmentation.

Reference fact 2.5. The `_seg` variants halve the channels of the last stage and of the last convolution
(arXiv 1905.02244 section 6.4); the whole ones are the classification networks up to their pooling. In the
small `_seg` variant the block that enters the last stage keeps its 48 channels, so it gains a skip wherever
the output stride is below 32 (fact 2.2).
"""

from __future__ import annotations

from typing import NamedTuple

from deeplab.backbones.mobilenet import MobileNet
from deeplab.config import MobileNetV3Config
from deeplab.layers.activations import Activation
from deeplab.layers.conv import ConvNormAct
from deeplab.layers.inverted_residual import InvertedResidual, round_channels
from deeplab.layers.norm import NormLayer

STEM = 16
TAIL = 3  # blocks of the last stage


class Row(NamedTuple):
    """One block at width 1: arXiv 1905.02244 tables 1 and 2."""

    kernel: int
    hidden: int
    channels: int
    gated: bool
    activation: Activation
    stride: int = 1


LARGE = (
    Row(3, 16, 16, False, "relu"),
    Row(3, 64, 24, False, "relu", 2),
    Row(3, 72, 24, False, "relu"),
    Row(5, 72, 40, True, "relu", 2),
    Row(5, 120, 40, True, "relu"),
    Row(5, 120, 40, True, "relu"),
    Row(3, 240, 80, False, "hswish", 2),
    Row(3, 200, 80, False, "hswish"),
    Row(3, 184, 80, False, "hswish"),
    Row(3, 184, 80, False, "hswish"),
    Row(3, 480, 112, True, "hswish"),
    Row(3, 672, 112, True, "hswish"),
    Row(5, 672, 160, True, "hswish", 2),
    Row(5, 960, 160, True, "hswish"),
    Row(5, 960, 160, True, "hswish"),
)
SMALL = (
    Row(3, 16, 16, True, "relu", 2),
    Row(3, 72, 24, False, "relu", 2),
    Row(3, 88, 24, False, "relu"),
    Row(5, 96, 40, True, "hswish", 2),
    Row(5, 240, 40, True, "hswish"),
    Row(5, 240, 40, True, "hswish"),
    Row(5, 120, 48, True, "hswish"),
    Row(5, 144, 48, True, "hswish"),
    Row(5, 288, 96, True, "hswish", 2),
    Row(5, 576, 96, True, "hswish"),
    Row(5, 576, 96, True, "hswish"),
)
# blocks, channels of the last convolution, and nominal stride -> block whose depthwise output is tapped
SIZES = {
    "large": (LARGE, 960, {4: 2, 8: 5, 16: 11}),
    "small": (SMALL, 576, {4: 0, 8: 2, 16: 7}),
}


class MobileNetV3(MobileNet):
    """Width-scaled MobileNetV3; end points 4, 8, 16 are depthwise outputs before squeeze and excite.

    Expansions scale with the channels they start from; the reference's only divisor is 8.
    """

    def __init__(self, config: MobileNetV3Config, norm: NormLayer | None) -> None:
        size, _, variant = config.name.removeprefix("mobilenet_v3_").partition("_")
        width, divisor = config.width, config.divisor or 8
        rows, last, end_points = SIZES[size]
        if variant == "seg":
            rows, last = _halve_tail(rows), last // 2
        channels = round_channels(STEM * width, divisor)
        stem = ConvNormAct(
            config.in_channels,
            channels,
            kernel=3,
            stride=2,
            norm=norm,
            activation="hswish",
            padding_rule=config.padding,
        )
        blocks, base = [], STEM
        for row in rows:
            hidden = round_channels(channels * (row.hidden / base), 8)
            block = InvertedResidual(
                channels,
                round_channels(row.channels * width, divisor),
                hidden=hidden,
                kernel=row.kernel,
                stride=row.stride,
                squeezed=round_channels(hidden / 4, 8) if row.gated else None,
                norm=norm,
                activation=row.activation,
                padding_rule=config.padding,
            )
            blocks.append(block)
            channels, base = block.project.conv.out_channels, row.channels
        out = round_channels(last * width, divisor)
        super().__init__(
            stem,
            blocks,
            last=ConvNormAct(channels, out, kernel=1, norm=norm, activation="hswish"),
            out_channels=out,
            end_points=end_points,
            rate_grows_at=config.rate_grows_at,
        )


def _halve_tail(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    tail = (row._replace(hidden=row.hidden // 2, channels=row.channels // 2) for row in rows[-TAIL:])
    return (*rows[:-TAIL], *tail)
