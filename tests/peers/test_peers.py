"""Peers' own models against what `import_weights` makes of their weights, where they are installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.torch_comparison import assert_same, imported, normalised, peer, randomise
from torch import nn

from deeplab.importers import import_weights
from deeplab.model.network import DeepLab

CLASSES = 5
# sides that the output stride divides; the tall one for rate 36 at output stride 16
EVEN = ((64, 96), (592, 32))


@pytest.mark.parametrize(
    "name", ["deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large"]
)
def test_torchvision_deeplab(name: str, tmp_path: Path) -> None:
    models = peer("torchvision.models.segmentation")
    theirs = getattr(models, name)(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    randomise(theirs)
    ours, report = imported(theirs, tmp_path)
    assert report.unused > 0 and any("auxiliary classifier" in note for note in report.notes)
    # the gates of MobileNetV3 amplify rounding
    dtype = torch.float64 if "mobilenet" in name else torch.float32
    assert_same(theirs, ours, dtype=dtype, their_output=lambda x: theirs(x)["out"])


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_torchvision_resnet_backbone(name: str, tmp_path: Path) -> None:
    models = peer("torchvision.models")
    theirs = randomise(getattr(models, name)(weights=None))
    ours, report = imported(theirs, tmp_path)
    assert report.new > 0 and ours.config.backbone.name == name
    features = nn.Sequential(*list(theirs.children())[:-2])
    assert_backbone_same(features, ours)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"])
def test_torchvision_mobilenet_backbone(name: str, tmp_path: Path) -> None:
    models = peer("torchvision.models")
    theirs = randomise(getattr(models, name)(weights=None))
    ours, _ = imported(theirs, tmp_path)
    if name == "mobilenet_v2":
        assert_backbone_same(theirs.features[:-1], ours)
    else:
        assert_backbone_same(theirs.features, ours, dtype=torch.float64)


def test_torchvision_vgg16_backbone(tmp_path: Path) -> None:
    """The convolutions are VGG's; our poolings are v1's 3x3, so the comparison pools as VGG does."""
    models = peer("torchvision.models")
    theirs = randomise(models.vgg16(weights=None))
    ours, report = imported(theirs, tmp_path)
    assert any("poolings" in note for note in report.notes)

    def stages(pixels: torch.Tensor) -> torch.Tensor:
        x = normalised(ours, pixels)
        for stage in ours.backbone.stages:
            x = F.max_pool2d(stage(x), 2)
        return x

    ours.output_stride = 32
    assert_same(theirs.features, ours, our_output=stages, sizes=((65, 65), (64, 96)))


def assert_backbone_same(theirs: nn.Module, ours: DeepLab, *, dtype: torch.dtype = torch.float32) -> None:
    """Backbone features agree at output stride 32, where no convolution has a rate."""
    ours.output_stride = 32
    assert_same(theirs, ours, dtype=dtype, our_output=lambda x: ours.backbone(normalised(ours, x))[0])


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("head", ["DeepLabV3", "DeepLabV3Plus"])
def test_segmentation_models(head: str, encoder: str, stride: int, tmp_path: Path) -> None:
    smp = peer("segmentation_models_pytorch")
    settings = {"encoder_weights": None, "classes": CLASSES, "encoder_output_stride": stride}
    theirs = randomise(getattr(smp, head)(encoder, **settings))
    ours, _ = imported(theirs, tmp_path)
    # files do not say the output stride, and theirs keeps the rates 12, 24, 36 at either
    assert ours.output_stride == (16 if head == "DeepLabV3Plus" else 8)
    if stride != ours.output_stride:
        ours = with_native_stride(ours, stride)
    assert_same(theirs, ours, sizes=EVEN)


def test_segmentation_models_takes_no_odd_sizes() -> None:
    """Why the comparisons above are at even sizes only."""
    smp = peer("segmentation_models_pytorch")
    theirs = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=CLASSES).eval()
    with pytest.raises(RuntimeError, match="divisible by 16"):
        theirs(torch.zeros(1, 3, 65, 97))


def with_native_stride(model: DeepLab, stride: int) -> DeepLab:
    """The same weights in a model whose rates hold at another output stride."""
    config = model.config.model_copy(update={"output_stride": stride})
    other = DeepLab(config).eval()
    other.load_state_dict(model.state_dict())
    return other


def test_segmentation_models_before_0_4(tmp_path: Path) -> None:
    """DeepLabV3's decoder was a numbered sequence then."""
    smp = peer("segmentation_models_pytorch")
    theirs = randomise(smp.DeepLabV3("resnet18", encoder_weights=None, classes=CLASSES))
    state = {}
    for name, value in theirs.state_dict().items():
        for now, before in (("aspp.", "0."), ("conv.", "1."), ("bn.", "2.")):
            name = name.replace(f"decoder.{now}", f"decoder.{before}")
        state[name] = value
    torch.save({"state_dict": state}, tmp_path / "old.pth")
    assert_same(theirs, import_weights(tmp_path / "old.pth").model, sizes=EVEN)


def test_segmentation_models_one_class_and_five_channels(tmp_path: Path) -> None:
    """A sigmoid of one logit is a softmax of two."""
    smp = peer("segmentation_models_pytorch")
    theirs = randomise(smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=1, in_channels=5))
    ours, report = imported(theirs, tmp_path)
    assert ours.config.num_classes == 2 and any("sigmoid" in note for note in report.notes)
    assert_same(
        theirs,
        ours,
        sizes=EVEN,
        their_output=lambda x: theirs(x).sigmoid(),
        our_output=lambda x: ours(x).softmax(1)[:, 1:],
    )


@pytest.mark.parametrize(("multiplier", "stride"), [(1.0, 8), (1.0, 16), (0.5, 8), (1.4, 16)])
def test_transformers_mobilenet_v2(multiplier: float, stride: int, tmp_path: Path) -> None:
    transformers = peer("transformers")
    config = transformers.MobileNetV2Config(
        depth_multiplier=multiplier,
        output_stride=stride,
        num_labels=CLASSES,
        id2label={index: f"thing {index}" for index in range(CLASSES)},
    )
    theirs = randomise(transformers.MobileNetV2ForSemanticSegmentation(config))
    theirs.save_pretrained(tmp_path)
    ours, _ = import_weights(tmp_path / "model.safetensors")
    assert ours.output_stride == stride and ours.labels.classes == tuple(f"thing {i}" for i in range(CLASSES))
    assert_same(
        theirs,
        ours,
        their_output=lambda x: theirs(x).logits,
        our_output=lambda x: ours.low_resolution_logits(x)["semantic"],
    )


def test_transformers_mobilenet_v2_backbone(tmp_path: Path) -> None:
    transformers = peer("transformers")
    theirs = randomise(transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config()))
    ours, report = imported(theirs, tmp_path)
    assert report.new > 0
    ours.output_stride = 32

    def features(x: torch.Tensor) -> torch.Tensor:
        return theirs.mobilenet_v2(x, output_hidden_states=True).hidden_states[-1]

    assert_same(
        theirs, ours, their_output=features, our_output=lambda x: ours.backbone(normalised(ours, x))[0]
    )
