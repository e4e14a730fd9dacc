"""MobileNetV2 (arXiv 1801.04381) as DeepLab uses it, at any width.

Reference fact 2.4. What differs from the classification network: it ends at the linear 320-channel
bottleneck, and widths other than 1 round channels to a divisor of 1 unless told otherwise.
"""

from __future__ import annotations

from typing import Literal

from deeplab.atrous import Atrous, plan_strides
from deeplab.backbones.mobilenet import MobileNet
from deeplab.config import Padding, RateGrowth
from deeplab.layers.conv import ConvNormAct
from deeplab.layers.inverted_residual import InvertedResidual, round_channels
from deeplab.layers.norm import NormLayer

# (expansion, channels, repeats, stride of the first), arXiv 1801.04381 table 2
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST = 1280
# nominal stride -> index of the bottleneck whose depthwise output feeds the decoder
END_POINTS = {4: 2, 8: 5, 16: 12}


class MobileNetV2(MobileNet):
    """Width-scaled MobileNetV2; end points 4, 8, 16 are depthwise outputs (before projection).

    Args:
        width: channel multiplier (depth multiplier in the reference).
        divisor: channels are multiples of it; None means 8 at width 1 and 1 at any other (fact 2.4).
        rate_grows_at: 'next_stage' gives a stage one rate, that of the unit before it lost its stride.
        low_level_at: 'outputs' takes the end points behind the bottlenecks.
        last_conv: go on to the classification network's last 1x1 convolution.
    """

    def __init__(
        self,
        *,
        width: float,
        divisor: int | None,
        in_channels: int,
        norm: NormLayer | None,
        padding_rule: Padding,
        rate_grows_at: RateGrowth,
        low_level_at: Literal["inside", "outputs"],
        last_conv: bool,
    ) -> None:
        if divisor is None:
            divisor = 8 if width == 1.0 else 1
        channels = round_channels(32 * width, divisor)
        stem = ConvNormAct(
            in_channels,
            channels,
            kernel=3,
            stride=2,
            norm=norm,
            activation="relu6",
            padding_rule=padding_rule,
        )
        blocks = []
        for expansion, base, repeats, first_stride in STAGES:
            out = round_channels(base * width, divisor)
            for repeat in range(repeats):
                block = InvertedResidual(
                    channels,
                    out,
                    hidden=channels if expansion == 1 else round_channels(channels * expansion, 8),
                    stride=first_stride if repeat == 0 else 1,
                    norm=norm,
                    activation="relu6",
                    padding_rule=padding_rule,
                )
                blocks.append(block)
                channels = out
        out = round_channels(LAST * max(1.0, width), 8)
        super().__init__(
            stem,
            blocks,
            last=ConvNormAct(channels, out, kernel=1, norm=norm, activation="relu6") if last_conv else None,
            out_channels=out if last_conv else channels,
            end_points=END_POINTS,
            rate_grows_at=rate_grows_at,
            low_level_at=low_level_at,
        )

    def plan(self, output_stride: int) -> list[Atrous]:
        if self.rate_grows_at != "next_stage":
            return super().plan(output_stride)
        stem, *stages = plan_strides([2, *(stage[3] for stage in STAGES)], output_stride)
        repeats = [stage[2] for stage in STAGES]
        blocks = [
            Atrous(stride if index == 0 else 1, rate)
            for (stride, rate), count in zip(stages, repeats, strict=True)
            for index in range(count)
        ]
        return [stem, *blocks]
