"""timm backbones: sizes, taps, and another output stride on the same parameters. Skips without timm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.torch_comparison import peer

from deeplab.backbones.timm_features import TimmFeatures
from deeplab.config import ASPPConfig, DecoderConfig, DeepLabConfig, PixelConfig, TimmConfig, backbone_config
from deeplab.errors import UserError
from deeplab.model.network import DeepLab
from deeplab.train.loop import batch_loss

torch.set_num_threads(1)


@pytest.fixture
def timm() -> ModuleType:
    return peer("timm")


needs_timm = pytest.mark.usefixtures("timm")
NAMES = ["resnet18", "mobilenetv3_small_050", "convnext_atto"]


def build(name: str, **changes: object) -> DeepLab:
    torch.manual_seed(0)
    backbone = backbone_config(f"timm:{name}", **changes)
    config = DeepLabConfig(
        backbone=backbone,
        pixels=PixelConfig().for_channels(backbone.in_channels),
        context=ASPPConfig(rates=(6, 12), channels=8),
        decoder=DecoderConfig(channels=8, low_level_channels=4),
        num_classes=3,
    )
    return DeepLab(config)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"'timm'.*\[timm\]"):
        build("resnet18")


def test_names_are_checked_before_timm_is_asked() -> None:
    with pytest.raises(ValueError, match="timm:"):
        backbone_config("timm:")
    with pytest.raises(ValueError, match=r"timm\.width"):
        backbone_config("timm:resnet18", width=0.5)


@needs_timm
@pytest.mark.parametrize("name", NAMES)
def test_trains_labels_and_switches(name: str) -> None:
    model = build(name).train()
    images = torch.randint(0, 256, (2, 3, 65, 49), dtype=torch.uint8)
    batch_loss(model, images, torch.randint(0, 3, (2, 65, 49), dtype=torch.uint8)).backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None]
    before = dict(model.named_parameters())
    model.eval()
    with torch.inference_mode():
        native = model(images)
        model.output_stride = 8
        dense = model(images)
        features, taps = model.backbone(torch.zeros(1, 3, 64, 96), (4, 8, 16))
        model.output_stride = 16
        again = model(images)
    assert not model.backbone.training
    assert features.shape == (1, model.backbone.out_channels, 8, 12)
    assert {stride: tuple(tap.shape[1:]) for stride, tap in taps.items()} == {
        4: (model.backbone.low_level_channels[4], 16, 24),
        8: (model.backbone.low_level_channels[8], 8, 12),
        16: (model.backbone.low_level_channels[16], 8, 12),
    }
    assert not torch.equal(native, dense)
    assert torch.equal(native, again)
    assert all(value is before[key] for key, value in model.named_parameters())


def test_another_output_stride_is_what_timm_builds_there(timm: ModuleType) -> None:
    backbone = TimmFeatures(TimmConfig(name="timm:resnet18")).eval()
    backbone.set_output_stride(8)
    twin = timm.create_model("resnet18", features_only=True, output_stride=8).eval()
    twin.load_state_dict(backbone.network.state_dict())
    images = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        features, taps = backbone(images, (4,))
        expected = twin(images)
    assert torch.equal(features, expected[-1])
    assert torch.equal(taps[4], expected[1])


@needs_timm
def test_other_channel_counts_and_checkpoints(tmp_path: Path) -> None:
    model = build("resnet18", in_channels=4).eval()
    model.output_stride = 8
    model.save_pretrained(tmp_path)
    images = torch.rand(1, 4, 33, 33) * 255
    with torch.inference_mode():
        assert torch.equal(DeepLab.from_pretrained(tmp_path, output_stride=8)(images), model(images))


@needs_timm
@pytest.mark.parametrize("name", ["vgg11", "no_such_network"])
def test_what_timm_cannot_dilate_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"timm:{name}: timm has no features at output stride"):
        build(name)


@needs_timm
def test_an_unreachable_output_stride_leaves_the_model_as_it_was() -> None:
    model = build("resnet18").eval()
    with pytest.raises(UserError, match="output stride 4"):
        model.output_stride = 4
    assert model.output_stride == 16
    assert model.backbone.output_stride == 16


@needs_timm
def test_folded_models_are_refused() -> None:
    with pytest.raises(UserError, match="folded"):
        DeepLab(DeepLabConfig(backbone=backbone_config("timm:resnet18"), num_classes=2, folded=True))


@needs_timm
def test_timm_is_imported_beside_a_torchvision_of_another_torch() -> None:
    """In a process of its own, where nothing has defined operators: torchvision from the index is for CUDA."""
    program = "from deeplab.backbones.timm_features import _timm; _timm(); print(_timm().__name__)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.strip() == "timm", ran.stderr
