"""`load(..., classes=[...])`: everything but the classifier is kept, and the swap is said and recorded."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from deeplab.config import ASPPConfig, DecoderConfig, DeepLabConfig, backbone_config
from deeplab.config.labels import LabelSpec
from deeplab.model.checkpoint import load
from deeplab.model.network import DeepLab

BACKBONE = backbone_config("mobilenet_v2", width=0.25)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = DeepLabConfig(
        backbone=BACKBONE, context=ASPPConfig(channels=8), num_classes=3, extra_outputs={"depth": 2}
    )
    model = DeepLab(config, LabelSpec.named(["sky", "tree", "road"], ignore_label=254))
    model.provenance = {"run": "first"}
    model.save_pretrained(tmp_path)
    return tmp_path


def test_all_but_the_classifier_is_kept(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = load(folder)
    with caplog.at_level(logging.WARNING):
        after = load(folder, classes=["cat", "dog"])
    assert after.config.num_classes == 2
    assert after.labels.classes == ("cat", "dog") and after.labels.ignore_label == 254
    old, new = before.state_dict(), after.state_dict()
    changed = [key for key in new if old[key].shape != new[key].shape or not torch.equal(old[key], new[key])]
    assert changed == ["classifiers.semantic.convs.0.weight", "classifiers.semantic.convs.0.bias"]
    images = torch.rand(1, 3, 33, 40) * 255
    with torch.inference_mode():
        assert after(images)["semantic"].shape == (1, 2, 33, 40)
        assert torch.equal(after(images)["depth"], before(images)["depth"])
    swap = after.provenance["head_swap"]
    assert after.provenance["run"] == "first"
    assert swap["from"] == ["sky", "tree", "road"] and swap["to"] == ["cat", "dog"]
    assert swap["new"] == ["classifiers.semantic.convs.0.bias", "classifiers.semantic.convs.0.weight"]
    assert swap["kept"] == len(new) - 2
    assert "2 classes instead of 3" in caplog.text and "classifiers.semantic.convs.0.weight" in caplog.text


def test_as_many_classes_of_other_names_get_a_new_classifier(folder: Path) -> None:
    before, after = load(folder), load(folder, classes=["cat", "dog", "cow"])
    key = "classifiers.semantic.convs.0.weight"
    assert not torch.equal(before.state_dict()[key], after.state_dict()[key])


def test_the_same_names_change_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, after = load(folder), DeepLab.from_pretrained(folder, classes=["sky", "tree", "road"])
    assert all(torch.equal(value, before.state_dict()[key]) for key, value in after.state_dict().items())
    assert "head_swap" not in after.provenance and not caplog.text


def test_a_swap_survives_saving(folder: Path, tmp_path: Path) -> None:
    swapped = load(folder, classes=["cat", "dog"])
    swapped.save_pretrained(tmp_path / "new")
    assert load(tmp_path / "new").provenance["head_swap"]["to"] == ["cat", "dog"]


def test_a_decoder_that_ends_in_logits(tmp_path: Path) -> None:
    """There is no classifier: the decoder's layers as wide as the classes are new, the rest is kept."""
    config = DeepLabConfig(
        backbone=BACKBONE,
        context=ASPPConfig(channels=8),
        decoder=DecoderConfig(channels=3, merge="sum", output_is_logits=True),
        num_classes=3,
    )
    DeepLab(config).save_pretrained(tmp_path)
    after = load(tmp_path, classes=["cat", "dog"])
    assert after.config.decoder.channels == 2
    assert all(key.startswith("decoder.") for key in after.provenance["head_swap"]["new"])
    with torch.inference_mode():
        assert after(torch.rand(1, 3, 33, 33)).shape == (1, 2, 33, 33)


def test_no_classes_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match="classes is empty"):
        load(folder, classes=[])
