"""v1's heads and MSc; v3's cascade: sizes, channels, strides, rates, and the paper's own numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from deeplab.backbones import build_backbone
from deeplab.config import BackboneConfig, DecoderConfig, DeepLabConfig, FullyConnectedConfig, backbone_config
from deeplab.heads.fully_connected import FullyConnectedContext
from deeplab.heads.multi_scale import MultiScaleFeatures
from deeplab.layers.norm import norm_layer
from deeplab.model.network import DeepLab

torch.set_num_threads(1)
NORM = norm_layer(eps=1e-5, momentum=0.1)


@pytest.mark.parametrize("output_stride", [4, 8, 16, 32])
@pytest.mark.parametrize(("kernel", "rate"), [(7, 4), (4, 4), (4, 8), (3, 12)])
def test_v1_heads_keep_the_size(kernel: int, rate: int, output_stride: int) -> None:
    head = FullyConnectedContext(
        3, config=FullyConnectedConfig(channels=2, kernel=kernel, rates=(rate,)), native_stride=8
    )
    head.set_output_stride(output_stride)
    for size in ((5, 7), (6, 4), (1, 1)):
        assert head(torch.zeros(1, 3, *size), (40, 56)).shape == (1, 2, *size)


def test_an_even_kernel_looks_where_caffe_looks() -> None:
    """4x4 at rate 4 with padding 6 (v1's released fc6): taps at -6, -2, 2, 6 around each position."""
    head = FullyConnectedContext(
        1, config=FullyConnectedConfig(channels=1, kernel=4, rates=(4,)), native_stride=8
    ).eval()
    conv = head.branches[0].fc6.conv
    torch.nn.init.zeros_(conv.weight)
    with torch.no_grad():
        conv.bias.zero_()
        conv.weight[0, 0, 0, 3] = 1.0
    features = torch.arange(13 * 13, dtype=torch.float32).view(1, 1, 13, 13)
    assert conv(features)[0, 0, 6, 6] == features[0, 0, 0, 12]


def msc_model(**changes: object) -> DeepLab:
    torch.manual_seed(0)
    settings = {
        "backbone": backbone_config("vgg16", padding="caffe"),
        "context": FullyConnectedConfig(rates=(12,), channels=8, dropout=0.5),
        "multi_scale_features": 6,
        "num_classes": 4,
        "output_stride": 8,
        **changes,
    }
    return DeepLab(DeepLabConfig(**settings)).eval()


def test_msc_adds_five_branches_before_the_classifier() -> None:
    model = msc_model(multi_scale_features=128)
    assert model.classifiers["semantic"].convs[0].in_channels == 8 + 640
    first = [branch[0].conv for branch in model.multi_scale.branches]
    assert [conv.in_channels for conv in first] == [3, 64, 128, 256, 512]
    assert [conv.kernel_size for conv in first] == [(3, 3)] * 5
    assert [conv.stride[0] for conv in first] == [8, 4, 2, 1, 1]
    assert [conv.dilation[0] for conv in first] == [1] * 5


@pytest.mark.parametrize(
    ("output_stride", "strides", "rates"),
    [
        (4, [4, 2, 1, 1, 1], [1, 1, 1, 2, 2]),
        (16, [16, 8, 4, 2, 1], [1] * 5),
        (32, [32, 16, 8, 4, 2], [1] * 5),
    ],
)
def test_msc_follows_the_output_stride(output_stride: int, strides: list[int], rates: list[int]) -> None:
    model = msc_model()
    model.output_stride = output_stride
    first = [branch[0].conv for branch in model.multi_scale.branches]
    assert [conv.stride[0] for conv in first] == strides
    assert [conv.dilation[0] for conv in first] == rates


def test_msc_is_two_convolutions_of_each_source_concatenated() -> None:
    torch.manual_seed(0)
    msc = MultiScaleFeatures((3, 4, 5, 6, 7), 2, native_stride=8, resize="align_corners")
    msc.set_output_stride(8)
    sides = (33, 17, 9, 5, 5)
    sources = [torch.randn(1, c, side, side) for c, side in zip((3, 4, 5, 6, 7), sides, strict=True)]
    features = torch.randn(1, 2, 5, 5)
    expected = [features]
    for branch, source, stride in zip(msc.branches, sources, (8, 4, 2, 1, 1), strict=True):
        hidden = F.conv2d(source, branch[0].conv.weight, branch[0].conv.bias, stride, padding=1).relu()
        expected.append(F.conv2d(hidden, branch[1].conv.weight, branch[1].conv.bias).relu())
    torch.testing.assert_close(msc(features, sources), torch.cat(expected, 1))


@pytest.mark.parametrize("padding", ["caffe", "same", "symmetric"])
def test_msc_takes_any_size(padding: str) -> None:
    model = msc_model(backbone=backbone_config("vgg16", padding=padding))
    with torch.inference_mode():
        for size in ((33, 49), (40, 30), (1, 1)):
            assert model(torch.zeros(1, 3, *size)).shape == (1, 4, *size)


def test_msc_sees_the_image_itself() -> None:
    """With the deep features' weights at zero the logits still follow the photo."""
    model = msc_model()
    conv = model.classifiers["semantic"].convs[0]
    with torch.no_grad():
        conv.weight[:, :8] = 0
        images = torch.rand(1, 3, 33, 33) * 255
        assert not torch.allclose(model(images), model(images.flip(-1)), atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": backbone_config("resnet18")},
        {"decoder": DecoderConfig()},
    ],
)
def test_msc_goes_with_vgg16_and_no_decoder(changes: dict) -> None:
    with pytest.raises(ValidationError, match="vgg16 and no decoder"):
        msc_model(**changes)


def cascade(depth: int = 18, **options: object) -> BackboneConfig:
    return backbone_config(f"resnet{depth}", cascade=3, **options)


def test_cascade_doubles_the_rate_from_block_to_block() -> None:
    """v3 figure 3b: at output stride 16, block4 to block7 have rates 2, 4, 8, 16; multi-grid multiplies."""
    network = build_backbone(cascade(50, multi_grid=(1, 2, 1)))
    network.set_output_stride(16)
    rates = [[unit.conv2.conv.dilation[0] for unit in block] for block in network.blocks]
    assert rates[3:] == [[2, 4, 2], [4, 8, 4], [8, 16, 8], [16, 32, 16]]
    assert all(unit.stride == 1 for block in network.blocks[3:] for unit in block)
    shapes = [[unit.conv3.conv.out_channels for unit in block] for block in network.blocks[3:]]
    assert shapes == [[2048] * 3] * 4
    assert all(unit.shortcut is None for block in network.blocks[4:] for unit in block)


def test_without_a_cascade_nothing_changes() -> None:
    plain = build_backbone(backbone_config("resnet18"))
    longer = build_backbone(cascade())
    added = {f"blocks.{number}" for number in (4, 5, 6)}
    assert plain.state_dict().keys() == {key for key in longer.state_dict() if key[:8] not in added}
    assert [unit.nominal_stride for block in plain.blocks for unit in block] == [1, 2, 1, 2, 1, 2, 1, 1]


@pytest.mark.parametrize(
    ("depth", "strides_at", "output_stride"), [(18, "last", 8), (18, "last", 32), (50, "first", 32)]
)
def test_dense_cascade_subsampled_is_the_coarse_one(depth: int, strides_at: str, output_stride: int) -> None:
    """With all strides kept the last map is at 256; held at 8 or 32 it is the same, denser.

    The stride must lie in a unit's last spatial convolution; ResNet-18's first unit of a block has another
    behind it.
    """
    torch.manual_seed(0)
    network = build_backbone(cascade(depth, strides_at=strides_at, padding="symmetric")).double().eval()
    images = torch.randn(1, 3, 257, 257, dtype=torch.float64)
    with torch.inference_mode():
        network.set_output_stride(256)
        coarse, _ = network(images)
        network.set_output_stride(output_stride)
        dense, _ = network(images)
    step = 256 // output_stride
    assert coarse.shape[-2:] == (2, 2)
    torch.testing.assert_close(dense[:, :, ::step, ::step], coarse, rtol=1e-9, atol=1e-9)


def test_cascade_goes_with_resnets_and_ends_at_three() -> None:
    with pytest.raises(ValidationError, match=r"mobilenet_v2\.cascade"):
        backbone_config("mobilenet_v2", cascade=1)
    with pytest.raises(ValidationError, match="less than or equal to 3"):
        backbone_config("resnet50", cascade=4)
