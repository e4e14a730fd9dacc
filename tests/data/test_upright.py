"""Labels of photos whose EXIF tag turns them: drawn on the upright photo or on the stored one."""

from __future__ import annotations

import json
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.data_folders import grey, text

from deeplab.data.opening import open_split
from deeplab.data.recipe import DataRecipe
from deeplab.data.storage import Storage
from deeplab.data.upright import stored, turned_upright
from deeplab.doctor.found import Expected
from deeplab.doctor.run import check_data
from deeplab.errors import UserError

WIDTH, HEIGHT = 6, 4
TAGS = range(1, 9)


def tagged(path: Path, tag: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """A photo with an EXIF tag; uint8 [H, W, 3] as a viewer shows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = tag
    pixels = np.random.default_rng(tag).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image))


def drawn(size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Labels without any symmetry."""
    labels = np.zeros(size, np.uint8)
    labels[0, 1:], labels[1, 0] = 1, 2
    return labels


def expected(tag: int, labels: np.ndarray, path: Path) -> np.ndarray:
    """The labels as Pillow turns a picture with this tag."""
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(labels).save(path, exif=exif)
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image))


def with_masks(root: Path, tag: int, labels: np.ndarray) -> None:
    for split in ("train", "val"):
        tagged(root / f"images/{split}/{split}.png", tag, labels.shape)
        grey(root / f"masks/{split}/{split}.png", labels)
    text(root / "classes.txt", "background\nbox\ndisc\n")


def with_shards(root: Path, tag: int, labels: np.ndarray) -> None:
    with_masks(root / "plain", tag, labels)
    text(root / "classes.txt", "background\nbox\ndisc\n")
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}-000000.tar", "w") as tar:
            tar.add(root / f"plain/images/{split}/{split}.png", "a.image.png")
            tar.add(root / f"plain/masks/{split}/{split}.png", "a.seg.png")


def with_outlines(root: Path, tag: int, labels: np.ndarray) -> None:
    height, width = labels.shape
    for split in ("train", "val"):
        tagged(root / f"{split}/{split}.png", tag, labels.shape)
        boxes = {1: (1, 0, width, 1), 2: (0, 1, 1, 2)}
        content = {
            "images": [{"id": 1, "file_name": f"{split}.png", "height": height, "width": width}],
            "categories": [{"id": 1, "name": "box"}, {"id": 2, "name": "disc"}],
            "annotations": [
                {
                    "id": key,
                    "image_id": 1,
                    "category_id": key,
                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                }
                for key, (x0, y0, x1, y1) in boxes.items()
            ],
        }
        text(root / f"{split}.json", json.dumps(content))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("tag", TAGS)
def test_a_header_says_how_the_photo_lies(tag: int, suffix: str, tmp_path: Path) -> None:
    upright = tagged(tmp_path / f"a.{suffix}", tag)
    lies = stored(tmp_path / f"a.{suffix}")
    assert (lies.size, lies.orientation, lies.upright) == ((HEIGHT, WIDTH), tag, upright.shape[:2])


@pytest.mark.parametrize("tag", TAGS)
def test_labels_turn_as_their_photo_does(tag: int, tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    for size in ((HEIGHT, WIDTH), (5, 5)):
        tagged(photo, tag, size)
        turned = turned_upright(drawn(size), partial(stored, photo), drawn_on="stored")
        np.testing.assert_array_equal(turned, expected(tag, drawn(size), tmp_path / "b.png"))
        np.testing.assert_array_equal(
            turned_upright(drawn(size), partial(stored, photo), drawn_on="upright"), drawn(size)
        )


@pytest.mark.parametrize("make", [with_masks, with_outlines, with_shards])
@pytest.mark.parametrize("tag", TAGS)
def test_training_tells_by_size_what_was_drawn_on(tag: int, make, tmp_path: Path) -> None:
    make(tmp_path / "data", tag, drawn())
    sideways = tag >= 5
    image, label = open_split(DataRecipe(root=tmp_path / "data"), "train").load(0)
    wanted = expected(tag, drawn(), tmp_path / "b.png") if sideways else drawn()
    np.testing.assert_array_equal(label, wanted)
    assert image.shape[:2] == label.shape
    # whose sides the tag does not swap, or that are square, only the user can tell
    told = open_split(DataRecipe(root=tmp_path / "data", drawn_on="stored"), "train").load(0)[1]
    np.testing.assert_array_equal(told, expected(tag, drawn(), tmp_path / "b.png"))
    if sideways:
        with pytest.raises(UserError, match=r"is 6x4 .* is 4x6"):
            open_split(DataRecipe(root=tmp_path / "data", drawn_on="upright"), "train").load(0)


@pytest.mark.parametrize("make", [with_masks, with_outlines, with_shards])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (5, 5)], ids=["oblong", "square"])
@pytest.mark.parametrize("tag", TAGS)
def test_the_doctor_says_what_labels_are_taken_as(
    tag: int, size: tuple[int, int], make, tmp_path: Path
) -> None:
    make(tmp_path / "data", tag, drawn(size))
    checked = check_data(tmp_path / "data", workers=1)
    found = [finding for finding in checked.findings if finding.code.startswith(("exif", "size"))]
    if tag == 1:
        assert not found
        return
    (finding,) = found
    told = tag >= 5 and size == (HEIGHT, WIDTH)
    assert (finding.code, finding.severity) == ("exif-rotation" if told else "exif-flip", "warning")
    assert len(finding.files) == 2 and "remove the" in finding.fix
    assert ("annotation file" in finding.what + finding.fix) == (make is with_outlines)
    # once the user has said it, nothing is left to ask; and what contradicts the sizes is an error, as in training
    for drawn_on in ("stored", "upright"):
        said = check_data(tmp_path / "data", Expected(Storage(drawn_on=drawn_on)), workers=1)
        left = {(at.code, at.severity) for at in said.findings if at.code.startswith(("exif", "size"))}
        kept = ("exif-rotation", "warning") if drawn_on == "stored" else ("size-swapped", "error")
        assert left == ({kept} if told else set())


def test_outlines_of_another_size_are_not_said_to_be_a_mask_to_transpose(tmp_path: Path) -> None:
    with_outlines(tmp_path, 1, drawn())
    tagged(tmp_path / "train/train.png", 1, (WIDTH, HEIGHT))
    (finding,) = (
        finding for finding in check_data(tmp_path, workers=1).findings if finding.code == "size-swapped"
    )
    assert "ranspose" not in finding.fix and "annotation file" in finding.fix
