"""MobileNetV2 (arXiv 1801.04381) as DeepLab uses it, at any width.

Reference fact 2.4. What differs from the classification network: it ends at the linear 320-channel
bottleneck, and widths other than 1 round channels to a divisor of 1 unless told otherwise (`channels_at`).
"""

from __future__ import annotations

from deeplab.backbones.mobilenet import MobileNet
from deeplab.config import MobileNetV2Config
from deeplab.layers.atrous import Atrous, plan_strides
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


def channels_at(base: int, width: float, divisor: int | None, least: int | None = None) -> int:
    """Channels at `width` of a layer that has `base` at width 1.

    None is the reference's: for both 8 at width 1 and 1 at any other, so that a divisor of 16 gives 17 channels
    where rounding leaves none (fact 2.4).
    """
    usual = 8 if width == 1.0 else 1
    return round_channels(base * width, divisor or usual, least=least or usual)


class MobileNetV2(MobileNet):
    """Width-scaled MobileNetV2; end points 4, 8, 16 are depthwise outputs (before projection).

    `rate_grows_at` 'next_stage' gives a stage one rate, that of the unit before it lost its stride.
    """

    def __init__(self, config: MobileNetV2Config, norm: NormLayer | None) -> None:
        channels = channels_at(32, config.width, config.divisor, config.min_channels)
        stem = ConvNormAct(
            config.in_channels,
            channels,
            kernel=3,
            stride=2,
            norm=norm,
            activation="relu6",
            padding_rule=config.padding,
        )
        blocks = []
        for expansion, base, repeats, first_stride in STAGES:
            out = channels_at(base, config.width, config.divisor, config.min_channels)
            for repeat in range(repeats):
                block = InvertedResidual(
                    channels,
                    out,
                    hidden=channels if expansion == 1 else round_channels(channels * expansion, 8),
                    stride=first_stride if repeat == 0 else 1,
                    norm=norm,
                    activation="relu6",
                    padding_rule=config.padding,
                )
                blocks.append(block)
                channels = out
        out = round_channels(LAST * max(1.0, config.width), 8)
        super().__init__(
            stem,
            blocks,
            last=ConvNormAct(channels, out, kernel=1, norm=norm, activation="relu6")
            if config.last_conv
            else None,
            out_channels=out if config.last_conv else channels,
            end_points=END_POINTS,
            rate_grows_at=config.rate_grows_at,
            low_level_at=config.low_level_at,
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
