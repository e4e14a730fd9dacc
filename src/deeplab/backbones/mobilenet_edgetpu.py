"""MobileNet-EdgeTPU: a MobileNet whose dense early blocks suit accelerators better than depthwise ones.

Reference fact 2.6: ReLU everywhere, no squeeze and excite, no decoder end points. The fused blocks follow
the wanted output stride here; in the reference their stride is fixed, so its output stride 4 is not one.
"""

from __future__ import annotations

from typing import NamedTuple

from deeplab.backbones.mobilenet import MobileNet
from deeplab.config import MobileNetEdgeTPUConfig, Padding
from deeplab.layers.conv import ConvNormAct
from deeplab.layers.inverted_residual import FusedInvertedResidual, InvertedResidual, round_channels
from deeplab.layers.norm import NormLayer

STEM = 32
LAST = 1280


class Row(NamedTuple):
    """`repeats` equal blocks at width 1; the stride belongs to the first."""

    fused: bool
    kernel: int
    expansion: int
    channels: int
    repeats: int = 1
    stride: int = 1
    residual: bool = True


ROWS = (
    Row(True, 3, 1, 16),
    Row(True, 3, 8, 32, stride=2),
    Row(True, 3, 4, 32, repeats=3),
    Row(True, 3, 8, 48, stride=2),
    Row(True, 3, 4, 48, repeats=3),
    Row(False, 3, 8, 96, stride=2),
    Row(False, 3, 4, 96, repeats=3),
    Row(False, 3, 8, 96, residual=False),
    Row(False, 3, 4, 96, repeats=3),
    Row(False, 5, 8, 160, stride=2),
    Row(False, 5, 4, 160, repeats=3),
    Row(False, 3, 8, 192),
)


class MobileNetEdgeTPU(MobileNet):
    """Width-scaled MobileNet-EdgeTPU to its last 1x1 convolution; the reference's only divisor is 8."""

    def __init__(self, config: MobileNetEdgeTPUConfig, norm: NormLayer | None) -> None:
        width, divisor, padding_rule = config.width, config.divisor or 8, config.padding
        channels = round_channels(STEM * width, divisor)
        stem = ConvNormAct(
            config.in_channels,
            channels,
            kernel=3,
            stride=2,
            norm=norm,
            activation="relu",
            padding_rule=padding_rule,
        )
        blocks = []
        for row in ROWS:
            for repeat in range(row.repeats):
                out = round_channels(row.channels * width, divisor)
                blocks.append(
                    _block(row, channels, out, first=repeat == 0, norm=norm, padding_rule=padding_rule)
                )
                channels = out
        out = config.last_channels or round_channels(LAST * width, divisor)
        super().__init__(
            stem,
            blocks,
            last=ConvNormAct(channels, out, kernel=1, norm=norm, activation="relu"),
            out_channels=out,
            end_points={},
        )


def _block(
    row: Row,
    in_channels: int,
    out_channels: int,
    *,
    first: bool,
    norm: NormLayer | None,
    padding_rule: Padding,
) -> FusedInvertedResidual | InvertedResidual:
    hidden = round_channels(in_channels * row.expansion, 8)
    stride = row.stride if first else 1
    if row.fused:
        return FusedInvertedResidual(
            in_channels,
            out_channels,
            hidden=hidden,
            stride=stride,
            kernel=row.kernel,
            norm=norm,
            activation="relu",
            padding_rule=padding_rule,
        )
    return InvertedResidual(
        in_channels,
        out_channels,
        hidden=hidden,
        stride=stride,
        kernel=row.kernel,
        residual=row.residual,
        norm=norm,
        activation="relu",
        padding_rule=padding_rule,
    )
