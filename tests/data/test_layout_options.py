"""Options that other libraries' and Caffe's weights need: rates, strides, paddings, sizes, all by hand."""

from __future__ import annotations

import pytest
import torch

from deeplab.backbones import build_backbone
from deeplab.config import ASPPConfig, DecoderConfig, DeepLabConfig, backbone_config, parse_config
from deeplab.errors import UserError
from deeplab.layers.atrous import Atrous, plan_strides
from deeplab.layers.norm import norm_layer
from deeplab.layers.pool import MaxPool
from deeplab.layers.resize import scale_sides
from deeplab.model.network import DeepLab

NORM = norm_layer(eps=1e-5, momentum=0.1)


def test_the_unit_that_loses_its_stride_may_have_the_new_rate() -> None:
    nominal = [2, 2, 2, 1, 2, 1]
    assert plan_strides(nominal, 8)[3:] == [Atrous(1, 1), Atrous(1, 1), Atrous(1, 2)]
    assert plan_strides(nominal, 8, rate_grows_at="unit")[3:] == [Atrous(1, 1), Atrous(1, 2), Atrous(1, 2)]
    assert plan_strides(nominal, 4, rate_grows_at="unit")[2:] == [
        Atrous(1, 2),
        Atrous(1, 2),
        Atrous(1, 4),
        Atrous(1, 4),
    ]


def test_mobilenet_v2_rates_between_stages() -> None:
    """Stages of 160 channels (three blocks, stride 2) and 320 (one): the former keep rate 1 at stride 16."""
    for rule, expected in (
        ("next_unit", [1, 2, 2, 2]),
        ("unit", [2, 2, 2, 2]),
        ("next_stage", [1, 1, 1, 2]),
    ):
        backbone = build_backbone(backbone_config("mobilenet_v2", width=0.25, rate_grows_at=rule))
        backbone.set_output_stride(16)
        assert [block.depthwise.conv.dilation[0] for block in backbone.blocks[13:]] == expected
        assert [block.depthwise.conv.stride[0] for block in backbone.blocks[13:]] == [1] * 4


def test_strides_of_a_caffe_resnet_are_in_the_first_1x1() -> None:
    config = backbone_config("resnet50", strides_at="first_1x1", rate_grows_at="unit", padding="caffe")
    backbone = build_backbone(config)
    backbone.set_output_stride(8)
    units = [block[0] for block in backbone.blocks]
    assert [unit.conv1.conv.stride[0] for unit in units] == [1, 2, 1, 1]
    assert [unit.conv2.conv.stride[0] for unit in units] == [1, 1, 1, 1]
    assert [unit.conv2.conv.dilation[0] for unit in units] == [1, 1, 2, 4]


def test_caffe_poolings_round_up() -> None:
    """Five columns and six: windows begin at -1, 1, 3 and, in Caffe on six, also 5."""
    row = torch.arange(6.0).view(1, 1, 1, 6)
    caffe, torch_like = MaxPool(stride=2, padding_rule="caffe"), MaxPool(stride=2, padding_rule="symmetric")
    assert caffe(row).flatten().tolist() == [1, 3, 5, 5]
    assert torch_like(row).flatten().tolist() == [1, 3, 5]
    assert caffe(row[..., :5]).flatten().tolist() == torch_like(row[..., :5]).flatten().tolist() == [1, 3, 4]


def test_block_padding_goes_through_the_expansion() -> None:
    """With every kernel 0 but biases of norms 1, a block's border is as its inside; with zeros it is not."""

    def corner_and_centre(padding: str) -> tuple[float, float]:
        backbone = build_backbone(backbone_config("mobilenet_v2", width=0.25, padding=padding))
        block = backbone.blocks[1].eval()
        block.set_atrous(1, 1)
        for parameter in block.parameters():
            torch.nn.init.zeros_(parameter)
        torch.nn.init.ones_(block.expand.norm.bias)
        torch.nn.init.ones_(block.depthwise.conv.weight)
        torch.nn.init.ones_(block.depthwise.norm.weight)
        hidden = block.widen(torch.rand(1, block.expand.conv.in_channels, 5, 5))
        return hidden[0, 0, 0, 0].item(), hidden[0, 0, 2, 2].item()

    # the sum of nine ones is cut by ReLU6
    assert corner_and_centre("block") == pytest.approx((6, 6))
    assert corner_and_centre("symmetric") == pytest.approx((4, 6), abs=1e-3)


def test_scaled_sizes() -> None:
    assert scale_sides((65, 97), 0.5, "align_corners") == (33, 49)
    assert scale_sides((65, 97), 0.5, "half_pixel") == (32, 48)
    assert scale_sides((1, 1), 0.5, "half_pixel") == (1, 1)


def test_low_level_features_of_mobilenet_v2() -> None:
    inside = build_backbone(backbone_config("mobilenet_v2"))
    outputs = build_backbone(backbone_config("mobilenet_v2", low_level_at="outputs", last_conv=True))
    assert inside.low_level_channels == {4: 144, 8: 192, 16: 576}
    assert outputs.low_level_channels == {4: 24, 8: 32, 16: 96}
    assert (inside.out_channels, outputs.out_channels) == (320, 1280)


def test_defaults_keep_their_keys() -> None:
    """No option adds, removes or renames a key of a model that does not use it."""
    config = DeepLabConfig(
        backbone=backbone_config("mobilenet_v2", width=0.25),
        context=ASPPConfig(rates=(6,), channels=8),
        decoder=DecoderConfig(channels=8),
        num_classes=2,
    )
    keys = DeepLab(config).state_dict().keys()
    parts = {key.split(".conv.")[0].split(".norm.")[0] for key in keys if not key.startswith("backbone.")}
    assert parts == {
        "context.image_pooling.project",
        "context.pointwise",
        "context.atrous.0.depthwise",
        "context.atrous.0.pointwise",
        "context.projection",
        "decoder.stages.0.project",
        "decoder.stages.0.convs.0.depthwise",
        "decoder.stages.0.convs.0.pointwise",
        "decoder.stages.0.convs.1.depthwise",
        "decoder.stages.0.convs.1.pointwise",
        "classifiers.semantic.convs.0.weight",
        "classifiers.semantic.convs.0.bias",
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"backbone": {"name": "resnet18", "strides_at": "first_1x1"}},
            "resnet18: Input should be 'last' or 'first'",
        ),
        ({"backbone": {"name": "vgg16", "rate_grows_at": "unit"}}, "vgg16 has no key 'rate_grows_at'"),
        (
            {"backbone": {"name": "resnet50", "rate_grows_at": "next_stage"}},
            "resnet50: Input should be 'next_unit' or 'unit'",
        ),
        (
            {"backbone": {"name": "mobilenet_v2", "padding": "caffe"}},
            "mobilenet_v2: Input should be",
        ),
        (
            {"backbone": {"name": "resnet50", "padding": "block"}},
            "resnet50: Input should be",
        ),
        ({"backbone": {"name": "resnet50", "low_level_at": "outputs"}}, "resnet50 has no key 'low_level_at'"),
        ({"backbone": {"name": "vgg16", "last_conv": True}}, "vgg16 has no key 'last_conv'"),
        ({"backbone": {"name": "vgg16", "stem": [32, 32, 64]}}, "vgg16 has no key 'stem'"),
        ({"context": {"refine": True, "projection": False}}, "refine and projection_kernel go with"),
        ({"context": {"kind": "none", "projection_kernel": 3}}, "none has no key 'projection_kernel'"),
        ({"decoder": {"merge": "sum", "convs": 1}}, "convs goes with merge 'concat'"),
    ],
)
def test_what_does_not_fit_is_explained(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(DeepLabConfig, {"backbone": {"name": "resnet50"}, "num_classes": 3, **values}, "my.json")
