"""The doctor sees photos, masks, splits and the meaning of stored values as the layouts' surveys say them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.shared_folder import shared

from deeplab.data.opening import open_source
from deeplab.data.storage import Storage
from deeplab.doctor.class_list import resolve_classes
from deeplab.doctor.found import Expected, find
from deeplab.doctor.run import check_data
from deeplab.errors import UserError

SIDE = 16


def put(path: Path, values: Sequence[int] | None = None) -> Path:
    """A photo, different for each name; or a mask of stripes with these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        seed = sum(path.stem.encode())
        soft = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8))
        soft.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    else:
        stripes = np.repeat(np.array(values, np.uint8), SIDE // len(values))
        Image.fromarray(np.broadcast_to(stripes, (SIDE, len(stripes))).copy()).resize((SIDE, SIDE), 0).save(
            path
        )
    return path


def found(root: Path, **lists: str) -> tuple[str, set[tuple[str, str, str | None, str | None]]]:
    """Layout and every pair as (name, split, photo, mask), files relative to the root."""
    data = find(root, Expected(**lists))

    def short(path: Path | None) -> str | None:
        return path.relative_to(root).as_posix() if path else None

    return data.storage.layout, {
        (pair.name, pair.split, short(pair.photo), short(pair.mask)) for pair in data.pairs
    }


def voc(root: Path, masks: str = "SegmentationClass") -> None:
    for name in ("2007_1", "2007_2", "2007_3"):
        put(root / "JPEGImages" / f"{name}.jpg")
        put(root / masks / f"{name}.png", (0, 5, 15, 255))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "train.txt").write_text("2007_1\n")
    (lists / "val.txt").write_text("2007_2\n")


def test_voc_takes_listed_names_and_leaves_the_others_out(tmp_path: Path) -> None:
    voc(tmp_path)
    assert found(tmp_path) == (
        "voc",
        {
            ("2007_1", "train", "JPEGImages/2007_1.jpg", "SegmentationClass/2007_1.png"),
            ("2007_2", "val", "JPEGImages/2007_2.jpg", "SegmentationClass/2007_2.png"),
        },
    )
    checked = check_data(tmp_path)
    assert checked.passed and checked.unlisted == 1
    assert checked.data.classes.names[15] == "person"


def test_voc_with_augmented_masks_takes_their_list(tmp_path: Path) -> None:
    voc(tmp_path)
    voc(tmp_path, masks="SegmentationClassAug")
    assert all(mask.startswith("SegmentationClass/") for *_, mask in found(tmp_path)[1])
    (tmp_path / "ImageSets" / "Segmentation" / "train_aug.txt").write_text("2007_1\n2007_3\n")
    _, pairs = found(tmp_path)
    assert {(name, split) for name, split, *_ in pairs} == {
        ("2007_1", "train"), ("2007_3", "train"), ("2007_2", "val"),
    }  # fmt: skip
    # each split has the folder that training reads it from: VOC's own if all of its masks are there
    (tmp_path / "SegmentationClass" / "2007_3.png").unlink()
    folders = {split: mask.partition("/")[0] for _, split, _, mask in found(tmp_path)[1]}
    assert folders == {"train": "SegmentationClassAug", "val": "SegmentationClass"}


def test_cityscapes_label_ids_become_train_ids(tmp_path: Path) -> None:
    for split, city in (("train", "aachen"), ("val", "bonn")):
        name = f"{city}_000000_000019"
        put(tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
        # 7 is road (train id 0), 33 bicycle (18), 26 car (13), 3 "out of roi" (ignored)
        put(tmp_path / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", (7, 33, 26, 3))
        put(tmp_path / "gtFine" / split / city / f"{name}_gtFine_color.png", (0, 1))
    layout, pairs = found(tmp_path)
    assert layout == "cityscapes"
    assert ("aachen_000000_000019", "train") in {pair[:2] for pair in pairs}
    assert all(photo and mask.endswith("_labelIds.png") for _, _, photo, mask in pairs)
    train = check_data(tmp_path).counts[0]
    assert {index: int(train.pixels[index]) for index in train.pixels.nonzero()[0]} == {0: 64, 13: 64, 18: 64}
    assert train.ignored == 64
    assert "mask-indices" not in {finding.code for finding in check_data(tmp_path).findings}
    # the same classes as train ids, under the name of label ids: road, bicycle, car, ignored
    for path in tmp_path.rglob("*_labelIds.png"):
        put(path, (0, 18, 13, 255))
    (finding,) = (each for each in check_data(tmp_path).findings if each.code == "mask-indices")
    assert len(finding.files) == 2 and "labelTrainIds" in finding.fix


def test_ade20k_counts_from_one_and_ignores_zero(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        put(tmp_path / "images" / split / f"ADE_{split}_1.jpg")
        put(tmp_path / "annotations" / split / f"ADE_{split}_1.png", (0, 1, 150, 2))
    checked = check_data(tmp_path)
    assert checked.layout == "ade20k" and checked.passed
    assert [split.split for split in checked.counts] == ["train", "val"]
    assert checked.counts[0].pixels.nonzero()[0].tolist() == [0, 1, 149]
    assert checked.counts[0].ignored == 64
    assert checked.data.classes.names[:2] == ("wall", "building")
    with pytest.raises(UserError, match=r"data in the layout ade20k .* say that themselves"):
        check_data(tmp_path, Expected(num_classes=151))
    # one's own classes in the same folders are stored as they are
    own = check_data(tmp_path, Expected(Storage(layout="images"), num_classes=151))
    assert own.counts[0].pixels.nonzero()[0].tolist() == [0, 1, 2, 150]


def test_ones_own_data_in_the_folders_of_ade20k_count_from_zero(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        put(tmp_path / "images" / split / f"{split}.jpg")
        put(tmp_path / "annotations" / split / f"{split}.png", (0, 1))
    checked = check_data(tmp_path)
    assert checked.layout == "images" and checked.data.classes.names == ("class_0", "class_1")


def test_camvid_ignores_eleven(tmp_path: Path) -> None:
    for split in ("train", "val"):
        put(tmp_path / split / f"{split}_1.png")
        put(tmp_path / f"{split}annot" / f"{split}_1.png", (0, 3, 10, 11) if split == "train" else (0, 255))
    checked = check_data(tmp_path)
    assert checked.layout == "camvid" and checked.passed
    assert checked.counts[0].pixels.nonzero()[0].tolist() == [0, 3, 10]
    assert [split.ignored for split in checked.counts] == [64, 128]


@pytest.mark.parametrize(
    ("photo", "mask"),
    [
        ("images/train/a.jpg", "masks/train/a.png"),
        ("train/images/a.jpg", "train/masks/a.png"),
        ("Images/Training/a.JPG", "Labels/training/a.png"),
        ("images/train/a.jpg", "masks/train/a_mask.png"),
        ("images/train/img_a.jpg", "masks/train/label-a.png"),
        ("train/IMG_a.jpeg", "train_labels/IMG_a_L.png"),
        ("train/a.jpg", "train/a_mask.png"),
        ("train/a.jpg", "train/a.png"),
    ],
)
def test_folders_of_ones_own(photo: str, mask: str, tmp_path: Path) -> None:
    put(tmp_path / photo)
    put(tmp_path / mask, (0, 1))
    ((_, split, found_photo, found_mask),) = found(tmp_path)[1]
    assert (split, found_photo, found_mask) == ("train", photo, mask)


def test_a_split_without_masks_is_not_forgotten(tmp_path: Path) -> None:
    put(tmp_path / "images" / "train" / "a.jpg")
    put(tmp_path / "masks" / "train" / "a.png", (0, 1))
    put(tmp_path / "images" / "val" / "b.jpg")
    (finding,) = (f for f in check_data(tmp_path).findings if f.severity == "error")
    assert (finding.code, finding.files) == ("mask-missing", ("images/val/b.jpg",))


def test_a_test_split_without_any_mask_is_left_out(tmp_path: Path) -> None:
    voc(tmp_path)
    put(tmp_path / "JPEGImages" / "2008_9.jpg")
    (tmp_path / "ImageSets" / "Segmentation" / "test.txt").write_text("2008_9\n")
    checked = check_data(tmp_path)
    assert checked.passed and checked.unlisted == 2
    put(tmp_path / "SegmentationClass" / "2008_9.png", (0, 1))
    assert {split.split for split in check_data(tmp_path).counts} == {"train", "val", "test"}


def test_what_training_cannot_open_does_not_pass(tmp_path: Path) -> None:
    put(tmp_path / "train" / "a.jpg")
    put(tmp_path / "train" / "a_mask.png", (0, 1))
    (finding,) = check_data(tmp_path, Expected(num_classes=2)).findings
    assert (finding.code, finding.severity) == ("training-refuses", "error")
    assert "there is no split 'val'; splits found: train" in finding.what


def test_a_wrong_value_of_ade20k_is_named_as_stored_too(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        put(tmp_path / "images" / split / f"ADE_{split}_1.jpg")
        put(tmp_path / "annotations" / split / f"ADE_{split}_1.png", (0, 1, 150, 2))
    put(tmp_path / "annotations" / "training" / "ADE_training_1.png", (0, 1, 152, 2))
    (finding,) = (f for f in check_data(tmp_path).findings if f.severity == "error")
    assert finding.code == "value-out-of-range"
    assert "value 152: first annotations/training/ADE_training_1.png" in finding.details[0]


def test_lists_with_paths_and_two_columns(tmp_path: Path) -> None:
    for name in ("a", "b c", "d"):
        put(tmp_path / "images" / f"{name}.jpg")
        put(tmp_path / "masks" / f"{name}.png", (0, 1))
    (tmp_path / "mine.txt").write_text("/images/a.jpg /masks/a.png\n")
    (tmp_path / "other.txt").write_text("b c\n\nd.jpg\n")
    _, pairs = found(tmp_path, train="mine.txt", val=str(tmp_path / "other.txt"))
    assert {pair[:2] for pair in pairs} == {("a", "train"), ("b c", "val"), ("d", "val")}
    with pytest.raises(UserError, match=r"no split 'none\.txt'; lists found"):
        found(tmp_path, train="none.txt")


def test_folders_without_lists_are_split_as_in_training(tmp_path: Path) -> None:
    from deeplab.data.opening import open_source

    for number in range(12):
        put(tmp_path / "images" / f"{number}.jpg")
        put(tmp_path / "masks" / f"{number}.png", (0, 1))
    (tmp_path / "classes.txt").write_text("ground\nthing\n")
    pairs = found(tmp_path)[1]
    for split in ("train", "val"):
        source = open_source(tmp_path, split)
        assert {pair[0] for pair in pairs if pair[1] == split} == {source.name(i) for i in range(len(source))}


def test_two_photos_of_one_name(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.jpg")
    put(tmp_path / "images" / "a.png")
    put(tmp_path / "masks" / "a.png", (0, 1))
    by_code = {finding.code: finding for finding in check_data(tmp_path).findings}
    assert by_code["name-twice"].files == ("images/a.jpg", "images/a.png")
    # no one knows whose the mask is
    assert by_code["mask-missing"].files == ("images/a.jpg", "images/a.png")
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "a.png.png")
    put(tmp_path / "masks" / "a.jpg.png", (0, 1))
    assert {(photo, mask) for *_, photo, mask in found(tmp_path)[1]} == {
        (f"images/{name}", f"masks/{name}.png") for name in ("a.jpg", "a.png")
    }


def test_labelme_goes_through_its_own_decoder(tmp_path: Path) -> None:
    shape = '{"label": "cat", "shape_type": "polygon", "points": [[0, 0], [8, 0], [8, 16], [0, 16]]}'
    for name in ("a", "b", "c", "d", "e", "f", "g", "h"):
        put(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.json").write_text(
            f'{{"version": "5", "imagePath": "{name}.jpg", "imageHeight": 16, "imageWidth": 16, "shapes": [{shape}]}}'
        )
    checked = check_data(tmp_path)
    assert checked.layout == "labelme"
    assert checked.passed, checked.findings
    cat = checked.data.classes.names.index("cat")
    assert sum(int(split.pixels.sum()) for split in checked.counts) == 8 * 16 * 16
    assert 0.4 < checked.counts[0].shares[cat] < 0.6


def test_photos_without_annotation_or_object_are_counted(tmp_path: Path) -> None:
    shape = '{"label": "cat", "shape_type": "polygon", "points": [[0, 0], [8, 0], [8, 16], [0, 16]]}'
    for name in "abcdefghij":
        put(tmp_path / f"{name}.jpg")
        shapes = "" if name in "cg" else shape
        (tmp_path / f"{name}.json").write_text(
            f'{{"imagePath": "{name}.jpg", "imageHeight": 16, "imageWidth": 16, "shapes": [{shapes}]}}'
        )
    for name in "bf":
        (tmp_path / f"{name}.json").unlink()
    checked = check_data(tmp_path)
    assert checked.passed
    files = {finding.code: finding.files for finding in checked.findings}
    assert files["photo-unannotated"] == ("b.jpg", "f.jpg") and set(files["no-objects"]) == {"c.jpg", "g.jpg"}


def test_class_names_in_a_file_reach_another_format(tmp_path: Path) -> None:
    shape = '{"label": "cat", "shape_type": "polygon", "points": [[0, 0], [8, 0], [8, 16], [0, 16]]}'
    for name in "abcdefgh":
        put(tmp_path / "data" / f"{name}.jpg")
        (tmp_path / "data" / f"{name}.json").write_text(
            f'{{"version": "5", "imagePath": "{name}.jpg", "imageHeight": 16, "imageWidth": 16, "shapes": [{shape}]}}'
        )
    (tmp_path / "mine.txt").write_text("background\ndog\ncat\n")
    checked = check_data(tmp_path / "data", Expected(Storage(names=(str(tmp_path / "mine.txt"),))))
    assert checked.data.classes.names == ("background", "dog", "cat")
    assert checked.counts[0].pixels.nonzero()[0].tolist() == [0, 2]
    assert {finding.code for finding in checked.findings} == {"class-absent-train", "class-absent-val"}
    trained = open_source(tmp_path / "data", "train", Storage(names=(str(tmp_path / "mine.txt"),)))
    assert trained.classes == ("background", "dog", "cat")


def test_unknown_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        check_data(tmp_path / "nowhere")
    with pytest.raises(UserError, match="layout 'vox' is unknown; allowed: auto, cityscapes, voc"):
        check_data(tmp_path, Expected(Storage(layout="vox")))
    with pytest.raises(UserError, match=r"--ignore-label is 300; allowed: 0\.\.255"):
        resolve_classes((), "layout images", ignore_label=300)
    with pytest.raises(UserError, match=r"has none of the known layouts\. It holds: nothing"):
        check_data(tmp_path)


@pytest.mark.parametrize(("folder", "splits"), [("camvid", (367, 101)), ("voc_animals", (3131, 223))])
def test_real_data_sets_are_found(folder: str, splits: tuple[int, int]) -> None:
    pairs = find(shared("assets") / folder, Expected()).pairs
    assert tuple(sum(pair.split == split for pair in pairs) for split in ("train", "val")) == splits
    assert all(pair.photo and pair.mask for pair in pairs)
