"""Xception: where strides and rates sit, padding, end points, the bounded variant (reference fact 2.8)."""

from __future__ import annotations

import pytest
import torch

from deeplab.backbones import build_backbone
from deeplab.backbones.xception import Xception
from deeplab.config import ASPPConfig, DecoderConfig, DeepLabConfig, backbone_config
from deeplab.layers.conv import SeparableConv
from deeplab.layers.norm import BatchNorm2d, norm_layer
from deeplab.model.network import DeepLab

NORM = norm_layer(eps=1e-3, momentum=3e-4)

# reference fact 2.2: (stride, rate) of the modules of entry, middle and exit flow
ENTRY_STRIDES = {41: [2, 2, 2], 65: [2, 2, 2], 71: [2, 1, 2, 1, 2]}
MIDDLE = {41: 8, 65: 16, 71: 16}


def xception(depth: int, *, bounded: bool = False, **options: object) -> Xception:
    torch.manual_seed(0)
    return build_backbone(backbone_config(f"xception{depth}", **options), bounded=bounded)


@pytest.fixture(scope="module")
def xception41() -> Xception:
    return xception(41).double().eval()


def atrous_of(backbone: Xception) -> list[tuple[int, int]]:
    """Stride of each module's third convolution and rate of its first."""
    return [
        (module.convs[2].depthwise.conv.stride[0], module.convs[0].depthwise.conv.dilation[0])
        for module in backbone.modules_in_order()
    ]


@pytest.mark.parametrize("depth", [41, 65, 71])
def test_strides_become_rates(depth: int) -> None:
    with torch.device("meta"):
        backbone = xception(depth, multi_grid=(1, 2, 4))
    entry = [(stride, 1) for stride in ENTRY_STRIDES[depth]]
    plain = [(1, 1)] * MIDDLE[depth]
    backbone.set_output_stride(32)
    assert atrous_of(backbone) == [*entry, *plain, (2, 1), (1, 1)]
    backbone.set_output_stride(16)
    assert atrous_of(backbone) == [*entry, *plain, (1, 1), (1, 2)]
    backbone.set_output_stride(8)
    dilated = [(1, 2)] * MIDDLE[depth]
    assert atrous_of(backbone) == [*entry[:-1], (1, 1), *dilated, (1, 2), (1, 4)]
    assert [conv.depthwise.conv.dilation[0] for conv in backbone.exit[1].convs] == [4, 8, 16]
    assert [conv.depthwise.conv.stride[0] for conv in backbone.exit[0].convs] == [1, 1, 1]
    assert backbone.exit[0].shortcut.conv.stride == (1, 1)
    assert backbone.entry[0].shortcut.conv.stride == (2, 2)


@pytest.mark.parametrize(
    ("padding_rule", "size", "expected"),
    [
        ("symmetric", 4, [[14, 43], [43, 84]]),
        ("same", 4, [[48, 37], [37, 22]]),
        ("symmetric", 5, [[14, 43, 34], [43, 84, 55], [34, 55, 30]]),
        ("same", 5, [[14, 43, 34], [43, 84, 55], [34, 55, 30]]),
    ],
)
def test_strided_separable_by_hand(padding_rule: str, size: int, expected: list[list[int]]) -> None:
    """Reference Appendix B: input x[i, j] = i + j, kernel k[i, j] = i + j."""
    conv = SeparableConv(1, 1, norm=None, activation=None, padding_rule=padding_rule)
    conv.set_atrous(2, 1)
    torch.nn.init.zeros_(conv.depthwise.conv.bias)
    torch.nn.init.zeros_(conv.pointwise.conv.bias)
    torch.nn.init.ones_(conv.pointwise.conv.weight)
    with torch.no_grad():
        conv.depthwise.conv.weight.copy_(torch.arange(3)[:, None] + torch.arange(3.0))
        out = conv((torch.arange(size)[:, None] + torch.arange(float(size)))[None, None])
    assert out[0, 0].tolist() == expected


def test_padding_of_every_strided_convolution() -> None:
    with torch.device("meta"):
        plain, bounded = xception(41), xception(41, bounded=True)
    assert plain.entry[0].convs[2].depthwise.conv.padding_rule == "symmetric"
    assert bounded.entry[0].convs[2].depthwise.conv.padding_rule == "same"
    assert plain.stem[0].conv.padding_rule == bounded.stem[0].conv.padding_rule == "symmetric"


@pytest.mark.parametrize("size", [(33, 65), (34, 48)])
def test_dense_features_subsampled_are_the_coarse_ones(xception41: Xception, size: tuple[int, int]) -> None:
    """Reference Appendix B; explicit padding makes it hold on even sizes too."""
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        xception41.set_output_stride(32)
        coarse, _ = xception41(images)
        for output_stride in (4, 8, 16):
            xception41.set_output_stride(output_stride)
            dense, _ = xception41(images)
            step = 32 // output_stride
            torch.testing.assert_close(dense[:, :, ::step, ::step], coarse, rtol=1e-9, atol=1e-9)


def test_end_points(xception41: Xception) -> None:
    """Before rectification, at a side of input / nominal stride; the last map is rectified."""
    xception41.set_output_stride(32)
    with torch.inference_mode():
        features, taps = xception41(torch.randn(1, 3, 65, 65, dtype=torch.float64), (16, 8, 4))
    assert {stride: tuple(tap.shape[1:]) for stride, tap in taps.items()} == {
        4: (256, 17, 17),
        8: (728, 9, 9),
        16: (1024, 5, 5),
    }
    assert all(tap.min() < 0 for tap in taps.values())
    assert features.shape == (1, 2048, 3, 3)
    assert features.min() == 0


@pytest.mark.parametrize("depth", [41, 65, 71])
def test_end_points_are_where_the_stride_is_left(depth: int) -> None:
    with torch.device("meta"):
        backbone = xception(depth)
        backbone.set_output_stride(32)
        _, taps = backbone(torch.empty(1, 3, 65, 65), (4, 8, 16))
    assert {stride: tuple(tap.shape[1:]) for stride, tap in taps.items()} == {
        4: (256, 17, 17),
        8: (728, 9, 9),
        16: (1024, 5, 5),
    }
    assert backbone.low_level_channels == {4: 256, 8: 728, 16: 1024}


def test_bounded_variant_keeps_everything_within_six() -> None:
    backbone = xception(41, bounded=True).eval()
    backbone.set_output_stride(16)
    for module in backbone.modules():
        if isinstance(module, BatchNorm2d):
            torch.nn.init.constant_(module.weight, 100.0)
    with torch.inference_mode():
        x = backbone.stem(torch.randn(1, 3, 33, 33))
        assert (x.min(), x.max()) == (0, 6)
        for module in backbone.modules_in_order():
            hidden, shortcut = module.begin(x), module.shortcut
            lowest = 0 if module is backbone.exit[1] else -6
            assert (hidden.min(), hidden.max()) == (lowest, 6)
            assert shortcut is None or (shortcut(x).min(), shortcut(x).max()) == (-6, 6)
            x = module.finish(x, hidden)
            assert (x.min(), x.max()) == (0, 6)


def test_batch_of_one_trains_every_parameter() -> None:
    torch.manual_seed(0)
    config = DeepLabConfig(
        backbone=backbone_config("xception41"),
        context=ASPPConfig(rates=(6,), channels=16),
        decoder=DecoderConfig(strides=(16, 8, 4), channels=16),
        num_classes=5,
    )
    model = DeepLab(config).train()
    model(torch.randint(0, 256, (1, 3, 33, 30), dtype=torch.uint8)).square().mean().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    assert all(value.grad.isfinite().all() for value in model.parameters())


def test_exports_with_dynamic_sizes() -> None:
    config = DeepLabConfig(
        backbone=backbone_config("xception41"), context=ASPPConfig(channels=16), num_classes=5
    )
    model = DeepLab(config).eval()
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
    program = torch.export.export(model, (torch.rand(2, 3, 49, 65) * 255,), dynamic_shapes=shapes)
    images = torch.rand(1, 3, 34, 47) * 255
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-5)


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="multi_grid needs 3 rates for xception65"):
        build_backbone(backbone_config("xception65", multi_grid=(1, 2)))


def test_an_xception_is_bounded_with_its_model() -> None:
    with torch.device("meta"):
        model = DeepLab(DeepLabConfig(backbone=backbone_config("xception41"), bounded=True, num_classes=2))
    assert model.backbone.entry[0].convs[2].depthwise.conv.padding_rule == "same"
