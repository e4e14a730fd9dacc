"""PyTorch weights of other libraries: recognised, unwrapped, converted to the same function, or refused.

Libraries that can be installed are compared in tests/peers; here are those that cannot, rebuilt in plain
PyTorch from what they publish (torch_sources.py).
"""

from __future__ import annotations

import argparse
import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.torch_comparison import assert_same, imported, randomise
from torch import nn
from torch_sources import Jfzhang, Kazuto, MMSegmentation, ResNet50, VainF

from deeplab import Segmenter
from deeplab.cli.app import main
from deeplab.config import DeepLabConfig, NoContextConfig, backbone_config
from deeplab.errors import UserError
from deeplab.importers import import_weights
from deeplab.importers.hints import Hints
from deeplab.importers.torch.file import read_torch_file
from deeplab.importers.torch.layers import TORCH_PIXELS, natural
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


@pytest.mark.parametrize(("threshold", "wanted"), [(None, 0.5), (0.3, 0.3)])
def test_one_logit_and_a_sigmoid_are_two_classes(
    threshold: float | None, wanted: float, tmp_path: Path
) -> None:
    theirs = randomise(VainF(mobile=True, plus=True, classes=1))
    photo = torch.randint(0, 256, (1, 3, 64, 48), dtype=torch.uint8, generator=torch.manual_seed(0))
    with torch.inference_mode():
        pixels = (photo - torch.tensor(TORCH_PIXELS.mean).view(3, 1, 1)) / torch.tensor(
            TORCH_PIXELS.std
        ).view(3, 1, 1)
        # half of the photo is the object
        theirs.classifier.classifier[3].bias += math.log(wanted / (1 - wanted)) - theirs(pixels).median()
    torch.save(theirs.state_dict(), tmp_path / "one.pth")
    ours, report = import_weights(tmp_path / "one.pth", Hints(threshold=threshold))
    assert ours.config.num_classes == len(ours.labels.classes) == 2
    assert any(f"pixels above {wanted:g} are class 1" in note for note in report.notes)
    with torch.inference_mode():
        object_at = theirs(pixels).sigmoid()[:, 0] > wanted
        assert (ours(photo).argmax(1).bool() == object_at).float().mean() > 0.999
        assert 0.4 < object_at.float().mean() < 0.6


def test_mmsegmentations_threshold_is_its_own(tmp_path: Path) -> None:
    theirs = MMSegmentation(plus=False, stride=8, align=False, classes=1)
    config = "model = dict(decode_head=dict(num_classes=2, out_channels=1, threshold=0.4))"
    torch.save({"state_dict": theirs.state_dict(), "meta": {"config": config}}, tmp_path / "one.pth")
    _, report = import_weights(tmp_path / "one.pth")
    assert any("pixels above 0.4 are class 1" in note for note in report.notes)


@pytest.mark.parametrize(("classes", "threshold"), [(5, 0.5), (1, 0.0), (1, 30.0)])
def test_thresholds_that_mean_nothing_are_refused(classes: int, threshold: float, tmp_path: Path) -> None:
    torch.save(VainF(mobile=True, plus=False, classes=classes).state_dict(), tmp_path / "net.pth")
    with pytest.raises(UserError, match="--threshold"):
        import_weights(tmp_path / "net.pth", Hints(threshold=threshold))


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


AVERAGED = {
    # beside the weights: in dictionaries of their own, in one with other beginnings, and without dots
    "mmengine": lambda plain, ema: {"state_dict": plain, "ema_state_dict": renamed(ema, "module.{}")},
    "timm": lambda plain, ema: {"epoch": 3, "state_dict": plain, "state_dict_ema": ema},
    "nested": lambda plain, ema: {"model": {"net": plain}, "ema": {"model": ema}},
    "ema-pytorch": lambda plain, ema: {
        **renamed(plain, "online_model.{}"),
        **renamed(ema, "ema_model.{}"),
        "step": torch.tensor(3),
    },
    "Lightning": lambda plain, ema: {
        "state_dict": {
            **renamed(plain, "model.{}"),
            **{f"model_ema.{name.replace('.', '')}": value for name, value in ema.items()},
            "model_ema.decay": torch.tensor(0.99),
        }
    },
    "mmcv": lambda plain, ema: {
        "state_dict": {**plain, **{f"ema_{name.replace('.', '_')}": value for name, value in ema.items()}}
    },
}


def renamed(state: dict[str, torch.Tensor], pattern: str) -> dict[str, torch.Tensor]:
    return {pattern.format(name): value for name, value in state.items()}


PLAIN = {
    f"block.{index}.conv.{leaf}": torch.full((2,), 1.0) for index in range(6) for leaf in ("weight", "bias")
}
EMA = {name: value + 1 for name, value in PLAIN.items()}


@pytest.mark.parametrize("chosen", [None, "plain", "ema"])
@pytest.mark.parametrize("library", AVERAGED)
def test_moving_averages_beside_the_weights_can_be_chosen(
    library: str, chosen: str | None, tmp_path: Path
) -> None:
    file = read_torch_file(saved(AVERAGED[library](PLAIN, EMA), tmp_path), chosen)
    wanted = EMA if chosen == "ema" else PLAIN
    assert file.weights.keys() == wanted.keys()
    assert all(torch.equal(file.weights[name], value) for name, value in wanted.items())
    if chosen is None:
        assert any("--weights ema takes" in note for note in file.notes)


@pytest.mark.parametrize("stored", [{"ema_state_dict": EMA}, {"state_dict": renamed(EMA, "ema_model.{}")}])
def test_moving_averages_alone(stored: dict[str, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    path = saved(stored, tmp_path)
    for chosen in (None, "ema"):
        assert read_torch_file(path, chosen).weights.keys() == EMA.keys()
    with pytest.raises(UserError, match="holds moving averages only; fix: leave --weights away"):
        import_weights(path, Hints(weights="plain"))


def test_moving_averages_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no moving averages; fix: leave --weights away"):
        import_weights(saved(PLAIN, tmp_path), Hints(weights="ema"))


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
    with pytest.raises(UserError, match=r"holds Python objects \(torch_sources\.ResNet50\)"):
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
    elif change == "beyond float32":
        state["layer1.0.bn1.bias"] = torch.full_like(state["layer1.0.bn1.bias"], 1e300, dtype=torch.float64)
    elif change == "negative":
        state["layer2.0.bn1.running_var"] = -state["layer2.0.bn1.running_var"]
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
        ("beyond float32", "holds NaN or infinity"),
        ("negative", "holds negative variances"),
        ("ResNeXt", "a ResNeXt or wide ResNet"),
        ("units", r"a ResNet of \(3, 4, 5, 3\) bottleneck units is none of 18, 34, 50, 101, 152"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: str, message: str, tmp_path: Path) -> None:
    path = saved(changed(plain_resnet50().state_dict(), change), tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        import_weights(path)
    assert str(caught.value).startswith(str(path))


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    state = VainF(mobile=True, plus=True, classes=2).state_dict()
    bare = {name: value for name, value in state.items() if ".running_" not in name}
    with pytest.raises(
        UserError, match=r"batch norms have no running statistics.*running_mean.*with its buffers"
    ):
        import_weights(saved(bare, tmp_path))
    # a norm in a block, an atrous branch, the classifier
    for layer in (
        "backbone.high_level_features.3.conv.1.1",
        "backbone.low_level_features.1.conv.0.1",
        "classifier.aspp.convs.2.0",
        "classifier.classifier.3",
    ):
        cut = {name: value for name, value in state.items() if name.rpartition(".")[0] != layer}
        with pytest.raises(UserError, match=r"weights\.pth: .*which a network of this kind has"):
            import_weights(saved(cut, tmp_path))


def test_four_input_channels_are_noted(tmp_path: Path) -> None:
    state = VainF(mobile=True, plus=True, classes=2).state_dict()
    stem = "backbone.low_level_features.0.0.weight"
    wide = {**state, stem: torch.cat([state[stem], state[stem][:, :1]], 1)}
    model, report = import_weights(saved(wide, tmp_path))
    assert model.config.backbone.in_channels == 4
    assert model.config.pixels.bands == ("band 1", "band 2", "band 3", "band 4")
    assert model.config.pixels.mean[3] == pytest.approx(sum(model.config.pixels.mean[:3]) / 3)
    assert any("reads 4 channels, and the file does not say which" in note for note in report.notes)
    assert model.provenance["import"]["notes"] == list(report.notes)
    four = np.random.default_rng(0).integers(0, 256, (33, 41, 4), dtype=np.uint8)
    assert Segmenter(model, device="cpu")(four).labels.shape == (33, 41)
    with pytest.raises(UserError, match="has 3 bands of uint8; allowed: 4 of uint8"):
        Segmenter(model, device="cpu")(four[..., :3])


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
