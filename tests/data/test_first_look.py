"""What is said of labels and files before anything is computed on them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from broken_datasets import make_healthy
from PIL import Image
from support.data_folders import grey, photo, text
from support.training_runs import make_squares, squares_recipe

from deeplab.data import first_look, upright
from deeplab.data.first_look import look_at, warn_of_labels
from deeplab.data.opening import open_source
from deeplab.doctor.run import check_data
from deeplab.errors import UserError
from deeplab.imaging.pictures import opened_picture
from deeplab.train.keeper import Watcher
from deeplab.train.run import train

CLASSES = ("ground", "box", "disc")


def data_of(root: Path, *masks: object) -> Path:
    """A split all with these masks, 2 pixels high."""
    for index, values in enumerate(masks):
        photo(root / f"images/p{index}.png", np.shape(values), seed=index)
        grey(root / f"masks/p{index}.png", values)
    text(root / "classes.txt", "\n".join(CLASSES) + "\n")
    return root


def said(root: Path, *, scored: bool = False) -> list[str]:
    source = open_source(root, "all")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_labels(source, look_at(source), "all", scored=scored)
    return [str(warning.message) for warning in caught]


def test_labels_that_show_every_class_are_not_spoken_of(tmp_path: Path) -> None:
    assert said(data_of(tmp_path, [[0, 1], [2, 255]])) == []


def test_classes_that_never_occur_are_named(tmp_path: Path) -> None:
    root = data_of(tmp_path, [[0, 0], [2, 255]], [[0, 0], [2, 2]])
    fix = "; fix: add photos that show it, move some between the splits, or take it off the class list"
    assert said(root) == [f"a class never occurs in all: it cannot be learned (box){fix}"]
    (scored,) = said(root, scored=True)
    assert "its IoU is undefined and left out of the mean (box)" in scored


def test_one_class_alone_is_told_with_what_is_ignored(tmp_path: Path) -> None:
    """Masks of black and white: 255 is no class but ignored."""
    root = data_of(tmp_path, [[0, 0], [255, 255]], [[0, 255], [255, 255]])
    (told,) = said(root)
    assert told.startswith(
        "every labelled pixel of all is class 0 (ground), and 62.5% of all pixels are 255, which is ignored "
        f"(2 masks, first: {root / 'masks/p0.png'}); fix: check how the masks were exported"
    )


def test_masks_without_labels_are_counted_and_refused_where_there_are_no_others(tmp_path: Path) -> None:
    empty, full = [[255, 255], [255, 255]], [[0, 1], [2, 2]]
    root = data_of(tmp_path / "some", full, empty, empty)
    files = f"{root / 'masks/p1.png'}, {root / 'masks/p2.png'}"
    (told,) = said(root)
    assert told.startswith(
        f"all: a mask holds the ignore label 255 alone: no pixel is labelled (2 of 3, first: {files})"
    )
    root = data_of(tmp_path / "all", empty)
    with pytest.raises(
        UserError, match=r"all: every mask holds the ignore label 255 alone.*\(1 of 1, first: .*p0"
    ):
        said(root)


def test_what_was_not_looked_at_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = data_of(tmp_path, *[[[0, 1], [1, 1]]] * 40)
    monkeypatch.setattr(first_look, "LABEL_SECONDS", 0.0)
    (told,) = said(root)
    look = look_at(open_source(root, "all"))
    assert 0 < look.samples < 40 and f"never occurs in all ({look.samples} of 40 masks looked at)" in told


def test_the_doctor_says_the_same(tmp_path: Path) -> None:
    make_healthy(tmp_path)
    for mask in (tmp_path / "masks").iterdir():
        values = np.array(Image.open(mask))
        values[values == 2] = 0
        grey(mask, values)
    findings = {finding.code: finding.what for finding in check_data(tmp_path, workers=1).findings}
    source = open_source(tmp_path, "train")
    with pytest.warns(UserWarning) as caught:
        warn_of_labels(source, look_at(source), "train", scored=False)
    (told,) = caught
    what = findings["class-absent-train"].rstrip(".")
    assert str(told.message).startswith(f"{what[0].lower()}{what[1:]}")


def test_reading_headers_silences_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`warnings.catch_warnings` in threads that overlap leaves the filters of one of them to all."""
    photo(tmp_path / "photo.png", (4, 6))
    filters: list[list[object]] = []

    def opened(*given: object) -> object:
        filters.append(list(warnings.filters))
        return opened_picture(*given)

    monkeypatch.setattr(upright, "opened_picture", opened)
    assert upright.stored(tmp_path / "photo.png").size == (4, 6)
    assert filters == [list(warnings.filters)]


def test_a_damaged_photo_or_mask_of_val_is_met_before_the_first_step(tmp_path: Path) -> None:
    data = make_squares(tmp_path / "data", side=40, photos=6)
    steps: list[object] = []
    for folder, kind in (("JPEGImages", "photo"), ("SegmentationClass", "mask")):
        file = data / folder / "photo5.png"
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=f"{folder}/photo5.png"):
            train(
                squares_recipe(data, steps=1, batch_size=2),
                tmp_path / kind,
                device="cpu",
                watcher=Watcher(steps.append, lambda: None),
            )
        file.write_bytes(whole)
    assert steps == []


def test_a_val_too_large_to_read_at_the_start_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_squares(tmp_path / "data", side=40, photos=60)
    monkeypatch.setattr(first_look, "PAIR_SECONDS", 0.0)
    news: list[str] = []
    train(
        squares_recipe(data, steps=1, batch_size=2),
        tmp_path / "run",
        device="cpu",
        watcher=Watcher(lambda report: None, lambda: None, news.append),
    )
    assert any("of 20 photos and masks of val were read before the first step" in line for line in news)


@pytest.mark.filterwarnings("default")
def test_commands_warn_in_sentences(tmp_path: Path, deeplab) -> None:
    """Not with a line of code and its place, as Python does."""
    data = make_squares(tmp_path / "data", side=40, photos=6)
    for mask in (data / "SegmentationClass").iterdir():
        values = np.array(Image.open(mask))
        grey(mask, np.where(values > 0, 255, 0))
    recipe = squares_recipe(data, steps=1, batch_size=2)
    text(tmp_path / "t.yaml", json.dumps(recipe.model_dump(mode="json")))
    for split, words in (
        ("train", ("train", tmp_path / "t.yaml", "-o", tmp_path / "run", "--device", "cpu")),
        ("val", ("eval", data, "-m", tmp_path / "run", "--classes", *recipe.data.names, "--device", "cpu")),
    ):
        code, _, err = deeplab(*words)
        lines = [line for line in err.splitlines() if "class 0 (background)" in line]
        assert code == 0 and lines and "UserWarning" not in err
        assert lines[0].startswith(
            f"deeplab: warning: every labelled pixel of {split} is class 0 (background), and "
        )
