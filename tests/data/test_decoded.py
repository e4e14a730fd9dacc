"""Decoded photos kept on disk: the same samples, decoded once, never half written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deeplab.data.augment import TrainAugment
from deeplab.data.decoded import DecodedFiles
from deeplab.data.opening import open_split
from deeplab.data.recipe import DataRecipe
from deeplab.errors import UserError


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pairs, and an empty cache beside them."""
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("sky\nground\n")
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(rng.integers(0, 2, (20, 30), np.uint8)).save(root / "masks" / f"{name}.png")
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("b\n")
    return root


def test_samples_are_the_same_and_decoded_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    augment = TrainAugment(crop_size=(17, 17))
    plain = open_split(DataRecipe(root=data), "train", transform=augment)
    kept = open_split(DataRecipe(root=data, keep_decoded=True), "train", transform=augment)
    first = [kept[index, draw] for draw in range(3) for index in range(2)]
    monkeypatch.setattr(kept, "_decode", lambda index: pytest.fail("decoded again"))
    again = [kept[index, draw] for draw in range(3) for index in range(2)]
    expected = [plain[index, draw] for draw in range(3) for index in range(2)]
    for found in (first, again):
        for sample, other in zip(found, expected, strict=True):
            assert all(torch.equal(*parts) for parts in zip(sample, other, strict=True))


def test_a_changed_file_or_recipe_is_decoded_again(data: Path) -> None:
    augment = TrainAugment(crop_size=(20, 30), scale_range=(1.0, 1.0), scale_step=0)

    def labels(**recipe: object) -> set[int]:
        split = open_split(DataRecipe(root=data, keep_decoded=True, **recipe), "train", transform=augment)
        return set(split[0][1].unique().tolist())

    assert labels() == {0, 1}
    assert labels(classes=("ground", "sky"), names=("sky", "ground")) == {0, 1}
    Image.fromarray(np.ones((20, 30), np.uint8)).save(data / "masks" / "a.png")
    assert labels() == {1}
    assert labels(classes=("ground", "sky"), names=("sky", "ground")) == {0}


def test_validation_is_not_kept(data: Path) -> None:
    assert open_split(DataRecipe(root=data, keep_decoded=True), "val").kept is None


def test_samples_in_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shard\.tar:3 is no file of its own.*fix: data.keep_decoded=false"):
        DecodedFiles(tmp_path).fetch(("shard.tar:3", "shard.tar:3"), lambda: pytest.fail("decoded"))


def test_a_full_disk_leaves_nothing_behind(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*of: object) -> None:
        raise OSError(28, "No space left on device")

    pair = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8)
    kept, files = (
        DecodedFiles(tmp_path / "kept"),
        tuple(str(data / kind / "a.png") for kind in ("images", "masks")),
    )
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(UserError, match=r"the disk is full.*free some space.*4 bytes a pixel"):
            kept.fetch(files, lambda: pair)
    assert list((tmp_path / "kept").iterdir()) == []
    kept.fetch(files, lambda: pair)
    assert len(list((tmp_path / "kept").iterdir())) == 2
