"""Checkpoints describe themselves, load without unpickling, and never lie half-written."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file

from deeplab import DeepLab, LabelSpec, Segmenter
from deeplab.config import ASPPConfig, DecoderConfig, DeepLabConfig, backbone_config
from deeplab.errors import UserError
from deeplab.model.checkpoint import CONFIG_NAME, EMBEDDED, WEIGHTS_NAME, load, save

CONFIG = DeepLabConfig(
    backbone=backbone_config("mobilenet_v2", width=0.25),
    context=ASPPConfig(rates=(6, 12), channels=8),
    decoder=DecoderConfig(channels=8, low_level_channels=4),
    num_classes=3,
)
LABELS = LabelSpec(
    classes=("background", "cat", "dog"), palette=((0, 0, 0), (1, 2, 3), (4, 5, 6)), ignore_label=254
)


@pytest.fixture
def model() -> DeepLab:
    torch.manual_seed(0)
    network = DeepLab(CONFIG, LABELS).eval()
    network.provenance = {"recipe": "by hand"}
    return network


def same_output(first: DeepLab, second: DeepLab) -> bool:
    images = torch.randint(0, 256, (1, 3, 33, 41), dtype=torch.uint8)
    with torch.inference_mode():
        return torch.equal(first(images), second(images))


def test_round_trip(model: DeepLab, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = DeepLab.from_pretrained(tmp_path)
    assert same_output(model, loaded)
    assert (loaded.config, loaded.labels, loaded.provenance) == (CONFIG, LABELS, model.provenance)
    assert not loaded.training


def test_the_file_alone_is_enough_and_says_everything(model: DeepLab, tmp_path: Path) -> None:
    weights = save(model, tmp_path)
    (tmp_path / CONFIG_NAME).unlink()
    moved = weights.rename(tmp_path / "mine.safetensors")
    assert same_output(model, load(moved))
    with safe_open(moved, framework="pt") as file:
        description = json.loads(file.metadata()["deeplab"])
    assert description["labels"]["classes"] == ["background", "cat", "dog"]
    assert description["labels"]["ignore_label"] == 254
    assert description["architecture"]["pixels"]["mean"] == [127.5, 127.5, 127.5]
    assert description["provenance"] == {"recipe": "by hand"}


def test_json_beside_serves_files_without_metadata(model: DeepLab, tmp_path: Path) -> None:
    """What other tools write: bare tensors, the description in config.json."""
    save(model, tmp_path)
    save_file(load_file(tmp_path / WEIGHTS_NAME), tmp_path / WEIGHTS_NAME)
    assert same_output(model, load(tmp_path))


@pytest.mark.parametrize("text", ["{}", "no JSON"])
def test_a_changed_description_beside_a_model_is_spoken_of(model: DeepLab, tmp_path: Path, text: str) -> None:
    """The safetensors file says itself what it is, so that it can be carried about alone."""
    save(model, tmp_path)
    load(tmp_path)
    (tmp_path / CONFIG_NAME).write_text(text)
    with pytest.warns(
        UserWarning, match=r"config\.json is not read: it says otherwise than model\.safetensors"
    ):
        load(tmp_path)


def test_the_hub_mixins_own_loader_reads_it(model: DeepLab, tmp_path: Path) -> None:
    names = pytest.importorskip("huggingface_hub.constants")
    assert (WEIGHTS_NAME, CONFIG_NAME) == (names.SAFETENSORS_SINGLE_FILE, names.CONFIG_NAME)
    model.save_pretrained(tmp_path)
    other = DeepLab(CONFIG, LABELS).eval()
    assert not same_output(model, other)
    missing, unexpected = load_model(other, tmp_path / WEIGHTS_NAME, strict=True)
    assert not missing
    assert not unexpected
    assert same_output(model, other)


def test_half_precision_storage_loads_as_float32(model: DeepLab, tmp_path: Path) -> None:
    full, half = save(model, tmp_path / "full"), save(model, tmp_path / "half", dtype=torch.float16)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    loaded = load(half)
    assert all(value.dtype == torch.float32 for value in loaded.parameters())
    expected = model.state_dict()["classifiers.semantic.convs.0.weight"].half().float()
    assert torch.equal(loaded.state_dict()["classifiers.semantic.convs.0.weight"], expected)


def test_output_stride_on_loading(model: DeepLab, tmp_path: Path) -> None:
    save(model, tmp_path)
    loaded = load(tmp_path, output_stride=8)
    assert loaded.output_stride == 8
    assert [branch.depthwise.conv.dilation for branch in loaded.context.atrous] == [(12, 12), (24, 24)]


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint was unpickled",))


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_nothing_is_unpickled(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=name):
        load(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "no model 'nonsense'"),
        ("folder", "holds no model.safetensors"),
    ],
)
def test_wrong_names_say_what_is_allowed(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=message):
        load(tmp_path / name if name == "folder" else name)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is asked of the Hub, which does not answer."""
    asked = []

    def download(repository: str, file: str, **_options: object) -> str:
        asked.append((repository, file))
        raise OSError("no network")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    return asked


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_models_name_means_it_beside_a_folder_of_that_name(
    model: DeepLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    embedded = load(name)
    save(model, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert load(name).labels == embedded.labels == DeepLab.from_pretrained(name).labels
    assert Segmenter(name, device="cpu").predictor.labels == embedded.labels
    for written in (f"./{name}", f"{name}/", Path(name), tmp_path / name):
        assert load(written).labels == model.labels


def test_the_hub_is_asked_in_so_many_words_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[tuple[str, str]]
) -> None:
    for folder in ("cat", "dogs"):
        (tmp_path / "runs" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name, near in (("runs/cats", r"runs/cat"), ("animal", "animals"), ("owner/name", None)):
        with pytest.raises(UserError, match=f"no model '{name}'") as caught:
            load(name)
        assert ("did you mean" in str(caught.value)) == (near is not None)
        assert near is None or f"did you mean {near}" in str(caught.value)
        assert "hf:owner/name" in str(caught.value)
    with pytest.raises(UserError, match="allowed: hf:owner/name"):
        load("hf:name")
    assert not no_network
    with pytest.raises(UserError, match=r"model hf:owner/name could not be had .*no network"):
        load("hf:owner/name")
    assert no_network == [("owner/name", WEIGHTS_NAME)]


def test_tampered_weights_are_named(model: DeepLab, tmp_path: Path) -> None:
    weights = save(model, tmp_path)
    with safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(weights)
    del tensors["backbone.stem.conv.weight"]
    save_file(tensors, weights, metadata=metadata)
    with pytest.raises(UserError, match=r"missing \['backbone.stem.conv.weight'\]"):
        load(weights)


def test_an_unknown_key_in_the_description_is_named(model: DeepLab, tmp_path: Path) -> None:
    weights = save(model, tmp_path)
    save_file(load_file(weights), weights)
    description = json.loads((tmp_path / CONFIG_NAME).read_text())
    description["architecture"]["backbone"]["widht"] = 1.0
    (tmp_path / CONFIG_NAME).write_text(json.dumps(description))
    with pytest.raises(
        UserError, match=r"backbone\.widht = 1\.0: mobilenet_v2 has no key 'widht'; did you mean 'width'"
    ):
        load(tmp_path)
