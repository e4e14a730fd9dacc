"""PyTorch weights of other libraries: recognised, unwrapped, converted to the same function, or refused.

Libraries that can be installed are compared in tests/peers; here are those that cannot, rebuilt in plain
PyTorch from what they publish (support/torch_sources.py).
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.torch_comparison import assert_same, imported, randomise
from support.torch_sources import Jfzhang, Kazuto, MMSegmentation, ResNet50, VainF
from torch import nn

from deeplab.cli.app import main
from deeplab.config import DeepLabConfig, NoContextConfig, backbone_config
from deeplab.errors import UserError
from deeplab.importers import import_weights
from deeplab.importers.hints import Hints
from deeplab.importers.torch.file import read_torch_file
from deeplab.importers.torch.layers import natural
from deeplab.model.network import DeepLab

CLASSES = 5
# odd, even, and so tall that rates up to 36 reach from one end of the features to the other
SIZES = ((65, 49), (64, 48), (297, 17))


@pytest.mark.parametrize(
    ("mobile", "plus"),
    [(False, True), (True, False), (True, True)],
    ids=["v3+ resnet", "v3 mobilenet", "v3+ mobilenet"],
)
def test_vainf(mobile: bool, plus: bool, tmp_path: Path) -> None:
    theirs = randomise(VainF(mobile=mobile, plus=plus, classes=CLASSES))
    ours, report = imported(theirs, tmp_path)
    assert report.format.endswith("VainF/DeepLabV3Plus-Pytorch") and ours.output_stride == 16
    assert_same(theirs, ours, sizes=SIZES)


@pytest.mark.parametrize("mobile", [False, True], ids=["resnet", "mobilenet"])
def test_jfzhang(mobile: bool, tmp_path: Path) -> None:
    theirs = randomise(Jfzhang(mobile=mobile, classes=CLASSES))
    ours, report = imported(theirs, tmp_path)
    # MobileNetV2's arrays are in the file a second time
    assert (report.unused > 0) == mobile
    assert_same(theirs, ours, sizes=SIZES)


def test_kazuto(tmp_path: Path) -> None:
    theirs = randomise(Kazuto(CLASSES))
    ours, _ = imported(theirs, tmp_path)
    assert ours.config.image_pyramid == (1.0, 0.5, 0.75) and ours.config.pixels.channels == "bgr"
    assert_same(theirs, ours, sizes=SIZES)


def test_kazuto_without_the_multi_scale_wrapper(tmp_path: Path) -> None:
    theirs = randomise(Kazuto(CLASSES)).base
    ours, _ = imported(theirs, tmp_path)
    assert ours.config.image_pyramid == (1.0,)
    assert_same(theirs, ours, sizes=SIZES, our_output=lambda x: ours.low_resolution_logits(x)["semantic"])


CONFIG_D16 = """
model = dict(
    backbone=dict(type='ResNetV1c', depth=50, dilations=(1, 1, 1, 2), strides=(1, 2, 2, 1),
        contract_dilation=True, multi_grid=(1, 2, 4)),
    decode_head=dict(type='DepthwiseSeparableASPPHead', dilations=(1, 6, 12, 18), align_corners=True),
    auxiliary_head=dict(type='FCNHead', align_corners=True))
"""


@pytest.mark.parametrize("plus", [False, True], ids=["v3", "v3+"])
def test_mmsegmentation_without_its_config(plus: bool, tmp_path: Path) -> None:
    theirs = randomise(MMSegmentation(plus=plus, stride=8, align=False, classes=CLASSES))
    ours, report = imported(theirs, tmp_path)
    assert any("auxiliary head" in note for note in report.notes)
    assert any("no config" in note for note in report.notes)
    assert_same(theirs, ours, sizes=SIZES)


def test_mmsegmentation_config_and_classes(tmp_path: Path) -> None:
    """Output stride 16, multi-grid and aligned corners come from the config inside the checkpoint."""
    theirs = randomise(MMSegmentation(plus=True, stride=16, align=True, classes=3))
    path = tmp_path / "epoch_1.pth"
    meta = {"config": CONFIG_D16, "CLASSES": ("road", "tree", "sky"), "epoch": 1}
    torch.save({"meta": meta, "state_dict": theirs.state_dict(), "optimizer": {"state": {}}}, path)
    ours, _ = import_weights(path)
    assert ours.output_stride == 16 and ours.labels.classes == ("road", "tree", "sky")
    assert_same(theirs, ours, sizes=SIZES)


@cache
def plain_resnet50() -> nn.Module:
    model = ResNet50(strides=(1, 2, 2, 2), rates3=[1] * 6, rates4=[1] * 3)
    model.fc = nn.Linear(2048, 10)
    return randomise(model)


def test_imagenet_backbone_starts_a_new_head(tmp_path: Path) -> None:
    theirs = plain_resnet50()
    ours, report = imported(theirs, tmp_path)
    assert report.new > 0 and report.unused == 2
    assert any("head is new" in note for note in report.notes)
    ours.output_stride = 32
    normal = ours.config.pixels
    assert normal.mean == (123.675, 116.28, 103.53) and normal.std == (58.395, 57.12, 57.375)

    def features(pixels: torch.Tensor) -> torch.Tensor:
        return ours.backbone((pixels - ours.pixel_mean) / ours.pixel_std)[0]

    assert_same(theirs, ours, sizes=SIZES, their_output=lambda x: theirs(x)[0], our_output=features)


@pytest.mark.parametrize(
    ("hints", "rates", "stride"),
    [
        (Hints(), (6, 12, 18), 16),
        (Hints(output_stride=8), (12, 24, 36), 8),
        (Hints(output_stride=8, rates=(4, 8, 12)), (4, 8, 12), 8),
    ],
)
def test_rates_and_output_stride_may_be_said(
    hints: Hints, rates: tuple[int, ...], stride: int, tmp_path: Path
) -> None:
    path = saved(VainF(mobile=True, plus=True, classes=2).state_dict(), tmp_path)
    config = import_weights(path, hints).model.config
    assert config.context.rates == rates and config.output_stride == stride


def test_needless_hints_are_refused(tmp_path: Path) -> None:
    path = saved(VainF(mobile=True, plus=True, classes=2).state_dict(), tmp_path)
    with pytest.raises(UserError, match=r"--gate cannot be chosen .*allowed: --rates, --output-stride"):
        import_weights(path, Hints(gate="sigmoid"))


def saved(content: object, folder: Path, **options: object) -> Path:
    path = folder / "weights.pth"
    torch.save(content, path, **options)
    return path


STATE = {"layer.weight": torch.tensor([1.0, 2.5, -3.0]), "layer.num_batches_tracked": torch.tensor(7)}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}},
        {
            "model_state": {f"module.{name}": value for name, value in STATE.items()},
            "best_score": np.float64(0.7),
        },
        {"model": {"state_dict": STATE}, "args": argparse.Namespace(lr=0.1)},
        {f"_orig_mod.module.{name}": value for name, value in STATE.items()},
        {name: value.half() if value.is_floating_point() else value for name, value in STATE.items()},
        {name: value.double() if value.is_floating_point() else value for name, value in STATE.items()},
    ],
    ids=["bare", "optimiser", "parallel, NumPy scalar", "nested, Namespace", "compiled", "half", "double"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_wrappers_come_off(content: dict, zipped: bool, tmp_path: Path) -> None:
    file = read_torch_file(saved(content, tmp_path, _use_new_zipfile_serialization=zipped))
    assert set(file.weights) == set(STATE)
    assert file.weights["layer.weight"].dtype == torch.float32
    assert torch.equal(file.weights["layer.weight"], STATE["layer.weight"])
    assert file.weights["layer.num_batches_tracked"].item() == 7


def test_what_came_off_is_noted(tmp_path: Path) -> None:
    many = {f"model.{index}.weight": torch.ones(1).half() for index in range(20)}
    content = {"state_dict": many | {"mean": torch.ones(3)}, "epoch": 3}
    file = read_torch_file(saved(content, tmp_path))
    assert "0.weight" in file.weights and "mean" not in file.weights
    assert file.notes == (
        "weights taken from 'state_dict'; left aside: epoch",
        "prefix 'model.' taken off; left aside: mean",
        "stored as float16: read as float32",
    )
    assert file.meta == {"epoch": 3}


def test_safetensors_in_alphabetical_order(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"b.10.weight": torch.ones(1), "b.9.weight": torch.zeros(1)}, path)
    names = sorted(read_torch_file(path).weights, key=natural)
    assert names == ["b.9.weight", "b.10.weight"]


class Trap:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    path = saved({"state_dict": STATE, "trap": Trap(tmp_path / "sprung")}, tmp_path)
    with pytest.raises(UserError, match=r"holds Python objects .*torch\.save\(model\.state_dict\(\)"):
        import_weights(path)
    assert not (tmp_path / "sprung").exists()


def test_whole_models_are_refused(tmp_path: Path) -> None:
    path = saved(plain_resnet50(), tmp_path)
    with pytest.raises(UserError, match=r"holds Python objects \(support\.torch_sources\.ResNet50\)"):
        import_weights(path)


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    with pytest.warns(DeprecationWarning):
        torch.jit.save(torch.jit.script(nn.Conv2d(1, 1, 1)), path)
    with pytest.raises(UserError, match="TorchScript archive"):
        import_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no weights under any known key"),
        ({"epoch": 3}, r"no weights under any known key \(it has: epoch\)"),
        ([torch.ones(1)], "holds a list, not weights by name"),
        ({"some.weight": torch.ones(1)}, r"holds 1 arrays \(some\.weight, \.\.\.\) of no known source"),
        ({"decoder.blocks.0.weight": torch.ones(1)}, "seems to be a U-Net"),
        ({"sem_seg_head.weight": torch.ones(1)}, "seems to be detectron2's DeepLab"),
    ],
)
def test_other_content_is_named(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        import_weights(saved(content, tmp_path))


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    path = saved({"layer.weight": torch.ones(10000)}, tmp_path)
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(UserError, match=r"weights\.pth: this is damaged or cut short"):
        import_weights(path)


def test_own_models_are_not_imported(tmp_path: Path) -> None:
    model = DeepLab(
        DeepLabConfig(
            backbone=backbone_config("mobilenet_v2", width=0.25),
            context=NoContextConfig(),
            num_classes=2,
        )
    )
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a model of this package already"):
        import_weights(tmp_path / "model.safetensors")


def changed(state: dict[str, torch.Tensor], change: str) -> dict[str, torch.Tensor]:
    state = dict(state)
    if change == "missing":
        del state["layer3.2.bn2.running_var"]
    elif change == "surplus":
        state["layer3.2.gate.weight"] = torch.ones(1)
    elif change == "not a number":
        state["layer1.0.bn1.weight"] = torch.full_like(state["layer1.0.bn1.weight"], torch.nan)
    elif change == "ResNeXt":
        state = {
            name: torch.ones(128, 4, 3, 3) if "conv2" in name else value for name, value in state.items()
        }
    elif change == "units":
        state = {name: value for name, value in state.items() if not name.startswith("layer3.5.")}
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"there is no layer3\.2\.bn2\.running_var"),
        ("surplus", r"no place for layer3\.2\.gate\.weight"),
        ("not a number", "holds NaN or infinity"),
        ("ResNeXt", "a ResNeXt or wide ResNet"),
        ("units", r"a ResNet of \(3, 4, 5, 3\) bottleneck units is none of 18, 34, 50, 101, 152"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: str, message: str, tmp_path: Path) -> None:
    path = saved(changed(plain_resnet50().state_dict(), change), tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        import_weights(path)
    assert str(caught.value).startswith(str(path))


def test_the_command_line_recognises_by_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A misleading name changes nothing, and what comes out is a model of ours with its provenance."""
    source = tmp_path / "holiday.jpg"
    theirs = randomise(VainF(mobile=True, plus=True, classes=21))
    state = {f"module.{name}": value.half() for name, value in theirs.state_dict().items()}
    torch.save({"model_state": state, "optimizer_state": {}}, source)
    with pytest.raises(SystemExit) as stopped:
        main(["import", str(source), "-o", str(tmp_path / "out")])
    assert not stopped.value.code
    printed = capsys.readouterr().out
    for text in ("VainF/DeepLabV3Plus-Pytorch", "prefix 'module.' taken off", "float16", "rates: 6, 12, 18"):
        assert text in printed
    description = json.loads((tmp_path / "out" / "config.json").read_text())
    assert description["provenance"]["import"]["source"] == "holiday.jpg"
    assert description["architecture"]["backbone"]["padding"] == "block"
