"""Palettes against the reference's colour maps, and label maps that keep their numbers."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab.errors import UserError
from deeplab.imaging.label_maps import read_label_map, save_label_map
from deeplab.imaging.palettes import (
    CITYSCAPES,
    CITYSCAPES_CLASSES,
    VOC_CLASSES,
    distinct,
    pascal,
)
from deeplab.imaging.png import save_png

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "l_utils_a.npz"
TWO_BY_THREE = np.array([[0, 1, 2], [20, 254, 255]], np.uint8)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    if not GOLDEN.is_file():
        pytest.skip(f"reference vectors not found at {GOLDEN}")
    with np.load(GOLDEN) as stored:
        return {key: stored[key] for key in stored.files}


@pytest.mark.parametrize(
    ("index", "colour"),
    [
        (0, (0, 0, 0)),
        (5, (128, 0, 128)),
        (7, (128, 128, 128)),
        (16, (0, 64, 0)),
        (23, (128, 192, 128)),
        (37, (128, 0, 192)),
        (52, (0, 64, 192)),
        (127, (224, 192, 192)),
        (175, (192, 160, 192)),
        (255, (224, 224, 192)),
    ],
)
def test_pascal_colours_by_hand(index: int, colour: tuple[int, int, int]) -> None:
    assert tuple(pascal()[index].tolist()) == colour


def test_class_names() -> None:
    assert (len(VOC_CLASSES), VOC_CLASSES[0], VOC_CLASSES[8], VOC_CLASSES[15]) == (
        21,
        "background",
        "cat",
        "person",
    )
    assert (len(CITYSCAPES_CLASSES), CITYSCAPES_CLASSES[0], CITYSCAPES_CLASSES[13]) == (19, "road", "car")


def test_distinct_colours_differ_and_can_be_seen() -> None:
    palette = distinct(256).astype(int)
    assert palette[0].tolist() == [0, 0, 0]
    gaps = np.abs(palette[:, None] - palette[None]).max(axis=2) + 999 * np.eye(256, dtype=int)
    assert gaps[:33, :33].min() >= 32
    assert gaps.min() >= 15
    brightest = palette[1:].max(axis=1)
    assert brightest.min() >= 100
    assert (brightest - palette[1:].min(axis=1)).min() >= 60


def test_distinct_keeps_colours_when_classes_are_added() -> None:
    for n in (1, 2, 7, 8, 9, 40):
        palette = distinct(n)
        assert palette.shape == (n, 3)
        np.testing.assert_array_equal(palette, distinct(64)[:n])


def test_palettes_refuse_impossible_sizes_and_writing() -> None:
    with pytest.raises(ValueError, match="at least one entry, 0"):
        pascal(0)
    with pytest.raises(ValueError, match="at least one entry, -1"):
        distinct(-1)
    with pytest.raises(ValueError, match="5000 were asked for"):
        distinct(5000)
    with pytest.raises(ValueError, match="read-only"):
        CITYSCAPES[0] = 0


def test_coloured_annotation_of_the_reference_is_refused(
    golden: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "coloured.png"
    path.write_bytes(golden["annotation_png_pascal"].tobytes())
    with pytest.raises(UserError, match=r"coloured\.png: a RGB picture holds colours .*look each colour up"):
        read_label_map(path)


def test_every_index_survives_and_none_but_background_is_black(tmp_path: Path) -> None:
    labels = np.arange(256, dtype=np.int64).reshape(16, 16)
    path = save_label_map(labels, tmp_path / "deep" / "er" / "all.png", palette=distinct(3))
    back = read_label_map(path)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, labels)
    with Image.open(path) as image:
        colours = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(colours[0, :3], distinct(3))
    assert colours.reshape(-1, 3)[1:].any(axis=1).all()
    assert colours[15, 15].tolist() == [224, 224, 192]


def test_strided_and_fortran_labels_are_written_right(tmp_path: Path) -> None:
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8)[::2, ::-1].T
    np.testing.assert_array_equal(
        read_label_map(save_label_map(labels, tmp_path / "s.png", palette=pascal(3))), labels
    )


def test_many_classes_become_16_bit(tmp_path: Path) -> None:
    labels = np.array([[0, 255, 256], [847, 40000, 65535]], np.int32)
    back = read_label_map(save_label_map(labels, tmp_path / "many.png", palette=pascal(848)))
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, labels)
    small = np.array([[3]], np.uint8)
    assert (
        read_label_map(save_label_map(small, tmp_path / "same.png", palette=pascal(848))).dtype == np.uint16
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 2, 1), np.uint8), r"found dtype uint8 and shape \[2, 2, 1\]"),
        (np.zeros((2, 2), np.float32), "found dtype float32"),
        (np.zeros((0, 2), np.uint8), "at least one pixel"),
        (np.array([[-1, 3]]), "labels run from -1 to 3"),
        (np.array([[70000]]), "labels run from 70000"),
    ],
)
def test_bad_labels_are_refused_and_leave_no_file(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        save_label_map(labels, tmp_path / "bad.png", palette=pascal())
    assert list(tmp_path.iterdir()) == []


def test_grey_and_one_bit_files_are_read_raw(tmp_path: Path) -> None:
    Image.fromarray(TWO_BY_THREE).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "grey.png"), TWO_BY_THREE)
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bit.png")
    bits = read_label_map(tmp_path / "bit.png")
    assert bits.dtype == np.uint8
    assert bits.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("suffix", "mode", "message"),
    [
        ("png", "RGB", "three equal channels.*keep one channel"),
        ("png", "LA", "mode 'LA' are not class indices"),
        ("jpg", "L", "a JPEG cannot hold labels"),
        ("tif", "F", "mode 'F' are not class indices"),
    ],
)
def test_files_without_indices_are_refused(tmp_path: Path, suffix: str, mode: str, message: str) -> None:
    path = tmp_path / f"mask.{suffix}"
    Image.new("L", (4, 4), 2).convert(mode).save(path)
    with pytest.raises(UserError, match=rf"mask\.{suffix}: .*{message}"):
        read_label_map(path)


def test_broken_label_maps_are_named(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:2000])
    (tmp_path / "text.png").write_text("not a picture")
    for name in ("cut.png", "text.png", "absent.png"):
        with pytest.raises(UserError, match=name):
            read_label_map(tmp_path / name)


def test_save_png_replaces_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    save_png(Image.new("RGB", (2, 2), "red"), path)
    before = path.read_bytes()

    def cut_off(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", cut_off)
    with pytest.raises(UserError, match=r"a\.png: cannot be written \(disk full\)"):
        save_png(Image.new("RGB", (2, 2), "blue"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match=r"name the file a\.png"):
        save_png(Image.new("RGB", (2, 2)), tmp_path / "a.jpg")
