"""Strides become rates as the reference's table says (reference fact 2.2)."""

from __future__ import annotations

import pytest

from deeplab.backbones import build_backbone
from deeplab.config import backbone_config
from deeplab.layers.atrous import plan_strides, scale_rate
from deeplab.layers.norm import norm_layer

NORM = norm_layer(eps=1e-5, momentum=0.1)

# reference fact 2.2: rates of MobileNetV2's layers 2 to 18 (expanded_conv to expanded_conv_16)
MOBILENET_RATES = {
    32: [1] * 17,
    16: [1] * 14 + [2] * 3,
    8: [1] * 7 + [2] * 7 + [4] * 3,
}
# block1 to block4 of ResNet-50 (3, 4, 6, 3 units), the last unit of a block has the stride
RESNET_RATES = {
    32: [1] * 16,
    16: [1] * 13 + [2] * 3,
    8: [1] * 7 + [2] * 6 + [4] * 3,
}


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_mobilenet_v2_rates(output_stride: int) -> None:
    backbone = build_backbone(backbone_config("mobilenet_v2"))
    backbone.set_output_stride(output_stride)
    assert [block.depthwise.conv.dilation[0] for block in backbone.blocks] == MOBILENET_RATES[output_stride]


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("multi_grid", [(), (1, 2, 4)])
def test_resnet50_rates(output_stride: int, multi_grid: tuple[int, ...]) -> None:
    backbone = build_backbone(backbone_config("resnet50", multi_grid=multi_grid))
    backbone.set_output_stride(output_stride)
    rates = [unit.conv2.conv.dilation[0] for block in backbone.blocks for unit in block]
    expected = list(RESNET_RATES[output_stride])
    expected[-3:] = [rate * unit for rate, unit in zip(expected[-3:], multi_grid or (1, 1, 1), strict=True)]
    assert rates == expected


def test_vgg16_at_8_is_the_released_v1() -> None:
    backbone = build_backbone(backbone_config("vgg16"))
    backbone.set_output_stride(8)
    assert [pool.stride for pool in backbone.pools] == [2, 2, 2, 1, 1]
    assert [conv.conv.dilation[0] for conv in backbone.stages[4]] == [2, 2, 2]
    assert all(conv.conv.dilation == (1, 1) for stage in backbone.stages[:4] for conv in stage)


def test_the_first_unit_without_its_stride_keeps_the_old_rate() -> None:
    assert plan_strides([2, 2, 1, 2, 1], 4) == [(2, 1), (2, 1), (1, 1), (1, 1), (1, 2)]


def test_an_unreachable_stride_names_the_reachable_ones() -> None:
    with pytest.raises(ValueError, match=r"output stride 3 .*\[2, 4\]"):
        plan_strides([2, 1, 2], 3)


def test_aspp_rates_double_when_the_stride_halves() -> None:
    rates = (6, 12, 18)
    assert [scale_rate(r, native=16, output_stride=8) for r in rates] == [12, 24, 36]
    assert [scale_rate(r, native=16, output_stride=32) for r in rates] == [3, 6, 9]
    assert scale_rate(1, native=8, output_stride=32) == 1
