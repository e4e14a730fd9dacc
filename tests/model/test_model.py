"""One contract for every backbone and head: sizes, batch 1, output stride, channels, gradients, export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.state_dict_snapshot import SNAPSHOT, fingerprint
from torch import nn

from deeplab.config import (
    ASPPConfig,
    DecoderConfig,
    DeepLabConfig,
    DensePredictionCellConfig,
    FullyConnectedConfig,
    NoContextConfig,
    PixelConfig,
    PyramidBranch,
    backbone_config,
)
from deeplab.config.labels import LabelSpec
from deeplab.heads.dense_prediction_cell import CITYSCAPES_CELL
from deeplab.layers.norm import BatchNorm2d
from deeplab.layers.resize import resize_bilinear
from deeplab.model.cost import cost
from deeplab.model.network import DeepLab
from deeplab.prediction.inference import predict
from deeplab.train.loop import batch_loss

torch.set_num_threads(1)

BACKBONES = {
    "mobilenet_v2": backbone_config("mobilenet_v2", width=0.25),
    "mobilenet_v2 symmetric": backbone_config("mobilenet_v2", width=0.25, padding="symmetric"),
    "resnet18": backbone_config("resnet18"),
    "resnet18_beta first": backbone_config("resnet18_beta", strides_at="first", padding="symmetric"),
    "resnet50_beta": backbone_config("resnet50_beta", multi_grid=(1, 2, 4)),
    "resnet18 cascade": backbone_config("resnet18", cascade=3),
    "resnet18 caffe": backbone_config("resnet18", rate_grows_at="unit", padding="caffe"),
    "vgg16": backbone_config("vgg16", padding="symmetric"),
    "mobilenet_v3_large": backbone_config("mobilenet_v3_large", width=0.5),
    "mobilenet_v3_large_seg": backbone_config("mobilenet_v3_large_seg", width=0.5),
    "mobilenet_v3_small": backbone_config("mobilenet_v3_small", width=0.5),
    "mobilenet_v3_small_seg": backbone_config("mobilenet_v3_small_seg", width=0.5),
    "mobilenet_edgetpu": backbone_config("mobilenet_edgetpu", width=0.25),
    "xception": backbone_config("xception"),
    "xception41": backbone_config("xception41"),
    "pnasnet": backbone_config("pnasnet", filters=4, stride=8, classification_head=True),
    "hnasnet": backbone_config("hnasnet", filters=4),
}
HEADS = {
    "v1 LargeFOV": {
        "context": FullyConnectedConfig(rates=(12,), channels=16, dropout=0.5),
        "output_stride": 8,
    },
    "v2 VGG ASPP-L": {
        "context": FullyConnectedConfig(rates=(6, 12, 18, 24), channels=8),
        "output_stride": 8,
    },
    "v2 ResNet ASPP-L": {
        "context": NoContextConfig(),
        "classifier_kernel": 3,
        "classifier_rates": (6, 12, 18, 24),
        "output_stride": 8,
    },
    "v3": {"context": ASPPConfig(rates=(6, 12, 18), channels=16, separable=False)},
    "v3 light": {"context": ASPPConfig(channels=16)},
    "v3+": {
        "context": ASPPConfig(rates=(6, 12, 18), channels=16),
        "decoder": DecoderConfig(channels=16, low_level_channels=8),
    },
    "v3+ sum 8 4": {
        "context": ASPPConfig(rates=(6, 12), channels=16, gate="qsigmoid"),
        "decoder": DecoderConfig(strides=(8, 4), channels=16, merge="sum", separable=False),
    },
    "v2 MSC": {
        "context": NoContextConfig(),
        "classifier_kernel": 3,
        "classifier_rates": (6, 12),
        "image_pyramid": (1.0, 0.75, 0.5),
    },
    "DPC": {
        "context": DensePredictionCellConfig(
            channels=8, branches=(*CITYSCAPES_CELL, PyramidBranch(grid_size=(2, 2)))
        ),
    },
    "LR-ASPP": {
        "context": ASPPConfig(
            channels=8,
            gate="qsigmoid",
            projection=False,
            image_pooling_crop=(65, 65),
            image_pooling_stride=(1, 2),
        ),
        "decoder": DecoderConfig(strides=(8,), channels=5, merge="sum", output_is_logits=True),
    },
    "v1 MSc": {
        "context": FullyConnectedConfig(rates=(4,), kernel=4, channels=8, dropout=0.5),
        "multi_scale_features": 6,
        "output_stride": 8,
    },
}
# one head of each kind; small backbones meet all heads, large ones these
KINDS = ("v1 LargeFOV", "v2 ResNet ASPP-L", "v3 light", "v3+", "DPC", "LR-ASPP", "v1 MSc")
LARGE = (
    "resnet50_beta",
    "resnet18_beta first",
    "resnet18 cascade",
    "resnet18 caffe",
    "vgg16",
    "xception",
    "xception41",
)
# cells whose stride is part of their shape
STRIDE_8 = ("pnasnet", "hnasnet")


def fits(backbone: str, head: str) -> bool:
    """Whether the parts go together: EdgeTPU has no low-level features, MSc is VGG's."""
    if head == "v1 MSc":
        return backbone == "vgg16"
    return backbone != "mobilenet_edgetpu" or "decoder" not in HEADS[head]


PAIRS = [
    (backbone, head)
    for backbone in BACKBONES
    for head in (KINDS if backbone in LARGE else HEADS)
    if fits(backbone, head)
]


def build(backbone: str, head: str, **changes: object) -> DeepLab:
    torch.manual_seed(0)
    settings = {"backbone": BACKBONES[backbone], "num_classes": 5, **HEADS[head], **changes}
    if backbone in STRIDE_8:
        settings["output_stride"] = 8
    return DeepLab(DeepLabConfig(**settings))


@pytest.fixture(scope="module", params=PAIRS, ids=" + ".join)
def pair(request: pytest.FixtureRequest) -> Iterator[DeepLab]:
    """One model for both tests of a pair, its weights not truncated: that takes longer than the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.init, "trunc_normal_", lambda weight, *, std, a, b: nn.init.normal_(weight, std=std))
        yield build(*request.param)


def test_any_size_in_the_same_size_out(pair: DeepLab) -> None:
    pair.eval()
    with torch.inference_mode():
        for size in ((1, 1), (33, 33), (38, 50)):
            images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
            logits = pair(images)
            assert logits.shape == (1, 5, *size)
            assert logits.isfinite().all()
        if pair.config.backbone.name == "hnasnet":
            return  # its cells end at 8, which their widths follow
        pair.output_stride = 32
        coarse = pair(images)
        pair.output_stride = pair.config.output_stride
        assert coarse.shape == logits.shape
        assert not torch.equal(coarse, logits)


def test_batch_of_one_trains_every_parameter(pair: DeepLab) -> None:
    pair.train()
    images = torch.randint(0, 256, (1, 3, 65, 49), dtype=torch.uint8)
    labels = torch.randint(0, 5, (1, 65, 49), dtype=torch.uint8)
    loss = batch_loss(pair, images, labels)
    loss.backward()
    assert loss.isfinite()
    dead = [name for name, value in pair.named_parameters() if value.grad is None or not value.grad.any()]
    assert not dead
    assert all(value.grad.isfinite().all() for value in pair.parameters())
    pair.zero_grad()


def meta(backbone: str, head: str) -> DeepLab:
    with torch.device("meta"):
        return build(backbone, head)


@pytest.mark.parametrize(("backbone", "head"), PAIRS)
def test_names_and_shapes_of_weights_are_kept(backbone: str, head: str) -> None:
    """Saved models must load for ever. On purpose: python tests/support/state_dict_snapshot.py writes a new file."""
    model = meta(backbone, head)
    kept = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert fingerprint(model) == kept[f"{backbone} + {head}"]
    with torch.device("meta"):
        again = DeepLab(DeepLabConfig.model_validate(json.loads(json.dumps(model.config.to_json()))))
    assert fingerprint(again) == fingerprint(model)


SAVED = [
    *(("mobilenet_v2", head) for head in HEADS if head != "v1 MSc"),
    *((backbone, "v3 light") for backbone in BACKBONES if backbone != "mobilenet_v2"),
    ("vgg16", "v1 MSc"),
]


@pytest.mark.parametrize(("backbone", "head"), SAVED)
def test_saved_and_loaded_models_are_equal(
    backbone: str, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        nn.init, "trunc_normal_", lambda weight, *, std, a, b: nn.init.normal_(weight, std=std)
    )
    model = build(backbone, head).eval()
    model.save_pretrained(tmp_path)
    again = DeepLab.from_pretrained(tmp_path)
    images = torch.randint(0, 256, (1, 3, 33, 41), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    # pytest keeps the folders of three runs, and all these models are a gigabyte
    (tmp_path / "model.safetensors").unlink()


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != "hnasnet"])
def test_every_backbone_changes_its_output_stride(backbone: str) -> None:
    """hnasnet's cells end at 8, which their widths follow."""
    network = meta(backbone, "v3 light").backbone
    for stride in (8, 16, 32):
        network.set_output_stride(stride)
        features, _ = network(torch.empty(1, 3, 65, 97, device="meta"))
        assert features.shape[-2:] == (64 // stride + 1, 96 // stride + 1)


@pytest.mark.parametrize("head", HEADS)
def test_output_stride_changes_no_parameter(head: str) -> None:
    model = build("resnet18" if fits("resnet18", head) else "vgg16", head).eval()
    images = torch.randint(0, 256, (1, 3, 65, 65), dtype=torch.uint8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():
        native = model(images)
        model.output_stride = 32
        coarse = model(images)
        model.output_stride = model.config.output_stride
        again = model(images)
    assert not torch.equal(native, coarse)
    assert torch.equal(native, again)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50_beta"])
@pytest.mark.parametrize("output_stride", [4, 8, 16])
def test_dense_features_subsampled_are_the_coarse_ones(backbone: str, output_stride: int) -> None:
    """Reference Appendix B; odd sizes of the form 32k + 1."""
    network = build(backbone, "v3").double().eval().backbone
    images = torch.randn(1, 3, 97, 129, dtype=torch.float64)
    with torch.inference_mode():
        network.set_output_stride(32)
        coarse, _ = network(images)
        network.set_output_stride(output_stride)
        dense, _ = network(images)
    step = 32 // output_stride
    torch.testing.assert_close(dense[:, :, ::step, ::step], coarse, rtol=1e-9, atol=1e-9)


def test_dense_features_subsampled_mobilenet() -> None:
    """It holds for MobileNetV2 on sizes where SAME padding is symmetric, that is 32k + 1."""
    network = build("mobilenet_v2", "v3").double().eval().backbone
    images = torch.randn(1, 3, 97, 129, dtype=torch.float64)
    with torch.inference_mode():
        network.set_output_stride(32)
        coarse, _ = network(images)
        network.set_output_stride(8)
        dense, _ = network(images)
    torch.testing.assert_close(dense[:, :, ::4, ::4], coarse, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_other_channel_counts(backbone: str, channels: int) -> None:
    config = BACKBONES[backbone].model_copy(update={"in_channels": channels})
    pixels = PixelConfig().for_channels(channels)
    stride = 8 if backbone in STRIDE_8 else 16
    model = DeepLab(
        DeepLabConfig(
            backbone=config, num_classes=3, output_stride=stride, pixels=pixels, **HEADS["v3 light"]
        )
    ).eval()
    with torch.inference_mode():
        assert model(torch.rand(1, channels, 17, 17) * 255).shape == (1, 3, 17, 17)


def test_other_channel_counts_reach_the_branch_of_the_image() -> None:
    """v1's MSc is the one head that sees the image."""
    backbone = BACKBONES["vgg16"].model_copy(update={"in_channels": 4})
    pixels = PixelConfig().for_channels(4)
    settings = {"backbone": backbone, "num_classes": 5, "pixels": pixels, **HEADS["v1 MSc"]}
    model = DeepLab(DeepLabConfig(**settings)).eval()
    images = torch.rand(1, 4, 17, 17) * 255
    with torch.inference_mode():
        logits = model(images)
        images[:, 3] += 100
        assert logits.shape == (1, 5, 17, 17)
        assert not torch.equal(model(images), logits)


def test_image_pooling_at_batch_one_leaves_statistics_alone() -> None:
    model = build("mobilenet_v2", "v3 light").train()
    norm = model.context.image_pooling.project.norm
    before = (norm.running_mean.clone(), norm.running_var.clone())
    model(torch.randint(0, 256, (1, 3, 65, 65), dtype=torch.uint8))
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])
    model(torch.randint(0, 256, (2, 3, 65, 65), dtype=torch.uint8))
    assert not torch.equal(norm.running_mean, before[0])


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@torch.no_grad()
def test_maps_beside_the_pooled_image_keep_their_memory_order(order: torch.memory_format) -> None:
    model = DeepLab(
        DeepLabConfig(
            num_classes=3, backbone=BACKBONES["mobilenet_v2"], context=ASPPConfig(channels=8, rates=(6,))
        )
    ).eval()
    given = []
    model.context.projection.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    features = torch.randn(2, model.backbone.out_channels, 5, 7).contiguous(memory_format=order)
    model.to(memory_format=order).context(features, (80, 112))
    assert given[0].is_contiguous(memory_format=order)
    parts = [model.context.image_pooling(features, 16, 1.0), model.context.pointwise(features)]
    parts += [branch(features) for branch in model.context.atrous]
    torch.testing.assert_close(given[0], torch.cat(parts, 1), rtol=0, atol=0)


def test_norm_of_one_value_is_what_evaluation_does() -> None:
    norm = BatchNorm2d(3).train()
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    norm.running_var.fill_(4.0)
    values = torch.tensor([3.0, 2.0, 1.0]).view(1, 3, 1, 1)
    expected = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(norm(values), expected, rtol=1e-5, atol=1e-5)


def test_several_outputs_share_the_trunk() -> None:
    model = build("mobilenet_v2", "v3 light", extra_outputs={"direction": 2}).eval()
    with torch.inference_mode():
        out = model(torch.zeros(1, 3, 33, 41, dtype=torch.uint8))
    assert {name: value.shape[1] for name, value in out.items()} == {"semantic": 5, "direction": 2}


def test_pixels_are_normalised_inside_and_bgr_is_a_flip() -> None:
    rgb = build("mobilenet_v2", "v3 light").eval()
    changed = rgb.config.model_copy(
        update={"pixels": rgb.config.pixels.model_copy(update={"channels": "bgr"})}
    )
    bgr = DeepLab(changed).eval()
    bgr.load_state_dict(rgb.state_dict())
    images = torch.randint(0, 256, (1, 3, 33, 33), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(rgb(images), bgr(images.flip(1)))
        assert torch.equal(rgb(images), rgb(images.float()))


@pytest.mark.parametrize(
    ("name", "published"),
    # torchvision's networks whole, as its tables have them (in G: 1.81, 4.09, 7.80, 0.30, 15.47), and their
    # layers behind the features
    [
        ("resnet18", 1_814_073_344 - 512 * 1000),
        ("resnet50", 4_089_184_256 - 2048 * 1000),
        ("resnet101", 7_801_405_440 - 2048 * 1000),
        ("mobilenet_v2", 300_774_272 - 7 * 7 * 320 * 1280 - 1280 * 1000),
        ("vgg16", 15_470_264_320 - 7 * 7 * 512 * 4096 - 4096 * 4096 - 4096 * 1000),
    ],
)
def test_multiply_adds_are_the_published_ones(name: str, published: int) -> None:
    strides = {"strides_at": "first"} if name.startswith("resnet") else {}
    backbone = backbone_config(name, **strides)
    config = DeepLabConfig(backbone=backbone, context=NoContextConfig(), num_classes=2)
    with torch.device("meta"):
        channels = DeepLab(config).backbone.out_channels
    found = cost(config, (224, 224), output_stride=32).multiply_adds
    assert found - 7 * 7 * channels * 2 == published


def test_parameter_counts_are_the_published_ones() -> None:
    """Without classifiers: MobileNetV2 to its 320 channels 1.81 M, ResNet-50 23.5 M, VGG-16 14.7 M."""

    def count(name: str) -> int:
        config = DeepLabConfig(backbone=backbone_config(name), num_classes=2)
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in DeepLab(config).backbone.parameters())

    # torchvision's totals less their classifiers (and MobileNetV2's last 1x1 convolution with its norm)
    assert count("mobilenet_v2") == 3_504_872 - 1_281_000 - (320 * 1280 + 2 * 1280)
    assert count("mobilenet_v3_large") == 5_483_032 - (960 * 1280 + 1280) - (1280 * 1000 + 1000)
    assert count("mobilenet_v3_small") == 2_542_856 - (576 * 1024 + 1024) - (1024 * 1000 + 1000)
    assert count("resnet18") == 11_689_512 - 513_000
    assert count("resnet50") == 25_557_032 - 2_049_000
    assert count("resnet101") == 44_549_160 - 2_049_000
    assert count("vgg16") == 14_714_688


def test_class_names_must_match_the_classes() -> None:
    config = DeepLabConfig(backbone=BACKBONES["mobilenet_v2"], num_classes=3)
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        DeepLab(config, LabelSpec.named(["background", "cat"]))


def test_folded_models_have_biases_and_no_norms() -> None:
    model = build("mobilenet_v2", "v3+", folded=True)
    assert not [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert model.backbone.stem.conv.bias is not None


def test_scales_and_mirroring_take_a_photo_through_the_whole_pyramid() -> None:
    """So that mirroring alone does not leave out what the model does by default."""
    model = build("mobilenet_v2", "v2 MSC")
    images = torch.randint(0, 256, (1, 3, 49, 65), dtype=torch.uint8, generator=torch.manual_seed(3))
    with torch.inference_mode():
        both = (model(images).softmax(1) + model(images.flip(-1)).flip(-1).softmax(1)) / 2
        torch.testing.assert_close(predict(model, images, flip=True)["semantic"].probabilities, both)
        larger = resize_bilinear(images.float(), (97, 129), model.config.resize)
        torch.testing.assert_close(model.scaled_logits(images, 2.0), model.low_resolution_logits(larger))
