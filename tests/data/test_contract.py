"""Training, evaluation, conversion and the doctor see one and the same data set, or refuse it alike."""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from broken_datasets import FAULTS, make_broken
from PIL import Image
from support.data_folders import grey, photo, text
from support.every_layout import NAMES, SETS, SIDE, halves

from deeplab.cli.data import convert, tfrecord, webdataset
from deeplab.cli.evaluate import open_labelled
from deeplab.cli.stored_data import StoredData
from deeplab.config.labels import LabelSpec
from deeplab.data.dataset import SegmentationDataset
from deeplab.data.layouts import LAYOUTS, recognise
from deeplab.data.layouts.tar_shards import pairs_in
from deeplab.data.opening import open_source, open_split, resolve, split_names
from deeplab.data.recipe import DataRecipe
from deeplab.data.source import Source
from deeplab.doctor.found import Expected, find
from deeplab.doctor.run import Checked, check_data
from deeplab.errors import UserError


class Seen(NamedTuple):
    """One split as somebody sees it: files by sample, class names, pixels of each value."""

    files: list[tuple[str, str]]
    classes: tuple[str, ...]
    pixels: list[int]


def seen_in(dataset: SegmentationDataset, classes: tuple[str, ...]) -> Seen:
    labels = [dataset.load(index)[1] for index in range(len(dataset))]
    counts = sum(np.bincount(label.ravel(), minlength=256)[: len(classes)] for label in labels)
    return Seen([dataset.source.files(index) for index in range(len(dataset))], classes, counts.tolist())


def by_training(root: Path, split: str) -> Seen:
    recipe = resolve(DataRecipe(root=root, train=split))
    return seen_in(open_split(recipe, split), recipe.classes)


def by_eval(root: Path, split: str, classes: tuple[str, ...]) -> Seen:
    return seen_in(open_labelled(root, split, StoredData(other="ignore"), LabelSpec.named(classes)), classes)


def by_convert(root: Path, split: str, output: Path) -> tuple[int, tuple[str, ...], list[int]]:
    convert(root, output, split=split)
    classes = tuple((output / "classes.txt").read_text().splitlines())
    masks = [np.array(Image.open(file)) for file in sorted((output / "masks" / split).iterdir())]
    counts = sum(np.bincount(mask.ravel(), minlength=256)[: len(classes)] for mask in masks)
    return len(masks), classes, counts.tolist()


def by_doctor(checked: Checked, split: str) -> Seen:
    counts = next(counts for counts in checked.counts if counts.split == split)
    pairs = [item.pair for item in checked.data.items if item.pair.split == split]
    files = [(str(pair.photo), str(pair.mask)) for pair in pairs]
    return Seen(files, checked.data.classes.names, counts.pixels.tolist())


def test_every_layout_has_a_set() -> None:
    assert {name.split()[0] for name in SETS} == set(LAYOUTS)


@pytest.mark.parametrize("name", SETS)
def test_all_see_the_same(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    made = SETS[name](root)
    assert recognise(root) == name.split()[0]
    checked = check_data(root, workers=1)
    assert checked.passed, checked.findings
    found = find(root, Expected())
    for split in NAMES:
        stored = found.splits[split]
        seen = by_training(root, stored)
        expected = np.zeros(len(made.classes), int)
        for half in (made.left, made.right):
            expected[made.classes.index(half)] = len(NAMES[split]) * SIDE * SIDE // 2
        assert (seen.classes, seen.pixels) == (made.classes, expected.tolist())
        assert by_doctor(checked, split) == seen
        assert by_eval(root, stored, seen.classes) == seen
        assert by_convert(root, stored, tmp_path / "out") == (len(seen.files), seen.classes, seen.pixels)


def refusal(see: Callable[[], object]) -> str | None:
    try:
        see()
    except UserError as error:
        return str(error)
    return None


def assert_all_agree(root: Path, output: Path, split: str = "train") -> str | None:
    """Training's refusal, None if there is none; evaluation and conversion say the same, and the doctor fails."""
    said = refusal(lambda: by_training(root, split))
    classes = resolve(DataRecipe(root=root, train=split)).classes if said is None else ("background", "dog")
    convert_said = refusal(lambda: by_convert(root, split, output))
    assert convert_said == said
    # a broken mask is met before a class that the model lacks only where opening reads it
    eval_said = refusal(lambda: by_eval(root, split, classes))
    assert eval_said == said or (said and eval_said and "model's classes" in eval_said)
    try:
        checked = check_data(root, workers=1)
    except UserError as error:
        assert str(error) == said
    else:
        assert checked.passed == (said is None), (said, checked.findings)
    return said


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 5])


@pytest.mark.parametrize("part", ["photo", "mask"])
@pytest.mark.parametrize("spoil", [Path.unlink, cut], ids=["missing", "cut"])
@pytest.mark.parametrize("name", SETS)
def test_all_refuse_a_missing_or_damaged_file(
    name: str, spoil: Callable[[Path], None], part: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    SETS[name](root)
    split = find(root, Expected()).splits["train"]
    files = open_split(DataRecipe(root=root), split).source.files(1)
    spoil(Path(files[part == "mask"].partition(":")[0]))
    pairs_in.cache_clear()
    unlabelled = name in ("labelme", "supervisely", "yolo") and part == "mask" and spoil is Path.unlink
    # a photo without a file of its own for the labels is one that nobody has annotated yet
    assert (assert_all_agree(root, tmp_path / "out", split) is None) == unlabelled


@pytest.mark.parametrize("name", [*SETS][: [*SETS].index("coco")])
def test_all_refuse_a_value_that_no_class_has(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    SETS[name](root)
    split = find(root, Expected()).splits["train"]
    mask = Path(open_split(DataRecipe(root=root), split).source.files(1)[1])
    grey(mask, halves(0, 201))
    said = assert_all_agree(root, tmp_path / "out", split)
    assert said is not None and "201" in said and str(mask) in said


# what the rules of the doctor find in masks that can be trained on, to no good end
BEYOND_TRAINING = {
    "black_and_white", "one_class", "duplicates", "ignore_as_class", "off_by_one",
}  # fmt: skip


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - BEYOND_TRAINING))
def test_what_the_doctor_fails_is_refused_and_the_other_way_round(fault: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_broken(root, fault)
    said = []
    for split in split_names(root):
        said.append(refusal(lambda split=split: by_training(root, split)))
        assert refusal(lambda split=split: by_convert(root, split, tmp_path / split)) == said[-1]
    # the doctor's verdict is on all splits
    assert check_data(root, workers=1).passed == (said == [None] * len(said))


def test_annotations_of_photos_or_classes_that_are_not_listed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    SETS["coco"](root)
    path = root / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    drawn = content["annotations"]

    def write(**changes: object) -> None:
        path.write_text(json.dumps({**content, **changes}))

    same = by_training(root, "train")
    for image, category in ((str, float), (float, str), ("{:.1f}".format, "0{}".format)):
        entry = {"image_id": image(drawn[1]["image_id"]), "category_id": category(drawn[1]["category_id"])}
        write(annotations=[drawn[0], {**drawn[1], **entry}])
        assert by_training(root, "train") == same
    for key in ("image_id", "category_id"):
        write(annotations=[drawn[0], {**drawn[1], "id": 901, key: 77}])
        said = assert_all_agree(root, tmp_path / "out")
        stray = f"annotation 901 of {path}: {key} 77"
        assert f"1 annotations name photos or classes that are not listed, first: {stray}" in str(said)
    images = content["images"]
    write(images=[images[0], {**images[1], "id": images[0]["id"]}])
    assert "two images have the id 0, a.jpg and b.jpg" in str(assert_all_agree(root, tmp_path / "out"))
    for key in ("id", "name"):
        twice = [content["categories"][0], {**content["categories"][1], key: content["categories"][0][key]}]
        write(categories=twice)
        assert f"two categories have the {key} {twice[0][key]!r}" in str(
            assert_all_agree(root, tmp_path / "out")
        )


@pytest.mark.parametrize("name", ["coco", "coco-panoptic", "cvat", "labelme", "supervisely", "via"])
def test_a_split_that_is_not_there_takes_nothing_from_another_one(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    SETS[name](root)
    if name == "cvat":
        notes = root / "annotations.xml"
        text(notes, re.sub(r'<image [^>]*subset="val".*?</image>', "", notes.read_text()))
    for place in [place for place in root.rglob("*") if "val" in place.name]:
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    assert split_names(root) == ("train",)
    with pytest.raises(UserError, match="train"):
        open_source(root, "val")
    # nor does a list, which would leave its photos in train
    text(root / "val.txt", "a\n")
    with pytest.raises(UserError, match="train"):
        open_source(root, "val")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("coco", "annotations/instances_train.json"),
        ("label-studio", "export.json"),
        ("via", "train/via_region_data.json"),
        ("yolo", "data.yaml"),
    ],
)
def test_of_two_exports_none_counts_in_silence(name: str, file: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    SETS[name](root)
    export = root / file
    shutil.copy(export, export.with_stem(f"{export.stem}_older"))
    assert recognise(root) == name
    with pytest.raises(UserError, match=f"several files that may count: {export.name}, {export.stem}_older"):
        open_source(root, "train")
    with pytest.raises(UserError, match="several files"):
        check_data(root, workers=1)


def test_a_set_on_which_nothing_is_drawn_is_failed_and_refused(tmp_path: Path) -> None:
    SETS["labelme"](tmp_path)
    (tmp_path / "labels.txt").unlink()
    for file in tmp_path.rglob("*.json"):
        text(file, json.dumps(json.loads(file.read_text()) | {"shapes": []}))
    assert "one class only, background" in (refusal(lambda: by_training(tmp_path, "train")) or "")
    checked = check_data(tmp_path, workers=1)
    assert [finding.code for finding in checked.findings if finding.severity == "error"] == [
        "training-refuses"
    ]


def test_splits_are_joined_by_the_names_of_classes(tmp_path: Path) -> None:
    root = tmp_path / "data"
    SETS["coco"](root)
    path = root / "annotations/instances_val.json"
    content = json.loads(path.read_text())
    cat, dog = content["categories"]
    before = by_training(root, "train")

    def write(*categories: dict[str, object]) -> None:
        path.write_text(json.dumps({**content, "categories": categories}))

    # dog is the first class there
    write({**cat, "id": 11}, dog)
    dataset = open_split(resolve(DataRecipe(root=root)), "val")
    assert seen_in(dataset, before.classes).pixels == before.pixels
    checked = check_data(root, workers=1)
    assert checked.passed and [counts.pixels.tolist() for counts in checked.counts] == [before.pixels] * 2
    # a class of one split alone
    write({**cat, "name": "bird"}, dog)
    with pytest.raises(
        UserError,
        match=r"json of train and instances_val.json of val have other classes: bird, cat not in both",
    ):
        resolve(DataRecipe(root=root))
    (finding,) = [finding for finding in check_data(root, workers=1).findings if finding.severity == "error"]
    assert finding.code == "class-list" and "bird, cat not in all of them" in finding.what
    chosen = resolve(DataRecipe(root=root, classes=("background", "dog")))
    assert seen_in(open_split(chosen, "val"), chosen.classes).pixels == [64, 64]


@pytest.mark.parametrize("name", ["coco", "coco-panoptic", "cvat", "label-studio", "via", "labelme"])
def test_photos_that_nothing_annotates_are_counted(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    SETS[name](root)
    split = find(root, Expected()).splits["train"]
    first = Path(open_split(DataRecipe(root=root), split).source.files(0)[0])
    for other in ("extra.jpg", "._extra.jpg", "extra.txt"):
        photo(first.with_name("new.png"), (SIDE, SIDE), seed=7)
        first.with_name("new.png").rename(first.with_name(other))
    checked = check_data(root, workers=1)
    (finding,) = [finding for finding in checked.findings if finding.code == "photo-unannotated"]
    assert checked.passed and finding.files == (first.with_name("extra.jpg").relative_to(root).as_posix(),)
    # photos of a split of its own in one folder with the others are annotated
    if name == "coco":
        for file in [*root.glob("images/*/*")]:
            file.rename(root / "images" / file.name)
        checked = check_data(root, workers=1)
        (finding,) = [finding for finding in checked.findings if finding.code == "photo-unannotated"]
        assert checked.passed and finding.files == ("images/extra.jpg",)


MOVED = {
    "coco": ("annotations/instances_train.json", "[[4, 0, 8, 0, 8, 8, 4, 8]]", "[[14, 0, 18, 0, 18, 8, 14, 8]]"),
    "cvat": ("annotations.xml", "4,0;8,0;8,8;4,8", "4,-9;8,-9;8,-1;4,-1"),
    "labelme": ("train/a.json", "[[4, 0], [8, 0], [8, 8], [4, 8]]", "[[40, 0], [80, 0], [80, 80], [40, 80]]"),
    "label-studio": ("export.json", "[[50.0, 0.0], [100.0, 0.0], [100.0, 100.0]", "[[150, 0], [200, 0], [200, 99]"),
    "yolo": ("labels/train/a.txt", "0.5 0 1 0 1 1 0.5 1", "4 0 8 0 8 8 4 8"),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVED)
def test_outlines_outside_of_their_photo_are_counted(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    SETS[name](root)
    file, old, new = MOVED[name]
    # Label Studio's last point is the one that stays
    content = (root / file).read_text().replace(", [50.0, 100.0]", "") if name == "label-studio" else ""
    content = (content or (root / file).read_text()).replace(old, new, 1)
    (root / file).write_text(content)
    (finding,) = [each for each in check_data(root, workers=1).findings if each.code == "annotation-bad"]
    assert len(finding.files) == 1 and finding.severity == "warning"
    assert "it lies outside of the photo" in finding.files[0] or (
        name == "yolo" and "no shares" in finding.files[0]
    )
    split = find(root, Expected()).splits["train"]
    with pytest.warns(UserWarning, match="1 annotations paint nothing"):
        by_training(root, split)


NAMELESS = {
    "cvat-masks": ("labelmap.txt", "cat:", ":"),
    "roboflow": ("train/_classes.csv", "cat", ""),
    "coco-panoptic": ("annotations/panoptic_train2017.json", '"cat"', "null"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMELESS)
def test_classes_without_a_name_are_refused(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    SETS[name](root)
    file, old, new = NAMELESS[name]
    (root / file).write_text((root / file).read_text().replace(old, new))
    split = find(root, Expected()).splits["train"]
    said = refusal(lambda: by_training(root, split))
    assert said is not None and said.endswith("has a class without a name, number 1; fix: name it")
    assert not check_data(root, workers=1).passed


def test_text_between_the_photos_of_an_xml_is_none_of_it(tmp_path: Path) -> None:
    root = tmp_path / "data"
    SETS["cvat"](root)
    before = by_training(root, "train")
    file = root / "annotations.xml"
    file.write_text(file.read_text().replace("</image>", "</image> and &gt; so on"))
    assert by_training(root, "train") == before


def test_classes_listed_twice_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    SETS["images"](root)
    (root / "classes.txt").write_text("background\ncat\ncat\n")
    said = assert_all_agree(root, tmp_path / "out")
    assert said is not None and ": classes.txt lists the class 'cat' twice" in said


def hidden(root: Path) -> None:
    """What macOS leaves on other systems' disks."""
    for path in [path for path in root.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    (root / ".DS_Store").write_bytes(b"")


def of_windows(root: Path) -> None:
    for path in [
        path for path in root.rglob("*") if path.suffix in (".txt", ".csv", ".json", ".xml", ".yaml")
    ]:
        lines = [f"{line} \r\n" for line in path.read_text().splitlines()]
        path.write_bytes(b"\xef\xbb\xbf" + "".join(lines).encode())


def decomposed(root: Path) -> None:
    """File names as macOS writes them, while lists and annotations keep the composed ones."""
    for path in [path for path in root.rglob("*") if not path.name.isascii()]:
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))


def names_in(root: Path, split: str) -> list[str]:
    found = open_split(DataRecipe(root=root), split).source
    return [found.name(index) for index in range(len(found))]


@pytest.mark.parametrize("change", [hidden, of_windows, decomposed])
@pytest.mark.parametrize("name", SETS)
def test_other_systems_change_nothing(
    name: str, change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accented = {"train": ("é", "b"), "val": ("ü", "d")}
    monkeypatch.setattr("support.every_layout.NAMES", accented)
    monkeypatch.setattr(
        "support.every_layout.PAIRS", [(split, each) for split in NAMES for each in accented[split]]
    )
    root = tmp_path / "data"
    SETS[name](root)
    split = find(root, Expected()).splits["train"]
    before = by_training(root, split)
    names = names_in(root, split)
    change(root)
    pairs_in.cache_clear()
    after = by_training(root, split)
    assert [[unicodedata.normalize("NFC", file) for file in files] for files in after.files] == [
        [*files] for files in before.files
    ]
    assert after[1:] == before[1:]
    assert names_in(root, split) == names


@pytest.mark.parametrize(
    "line", ["C:\\photos\\a.jpg", "a.jpg ", "images/a.png", "./a", "/x/a.jpg /y/a.png", "a.jpg,a.png", "a\ta"]
)
@pytest.mark.parametrize("name", ["images", "voc", "label-studio", "cvat-masks"])
def test_lists_of_any_system_find_their_photos(name: str, line: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    SETS[name](root)
    (file,) = [path for path in root.rglob("train*.txt")]
    file.write_text(f"{line}\r\nb\r\n")
    assert names_in(root, file.stem) == ["a", "b"]


@pytest.mark.parametrize("name", ["coco", "cvat", "label-studio"])
def test_two_photos_of_one_name_are_refused_instead_of_one_being_lost(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    SETS[name](root)
    split = find(root, Expected()).splits["train"]
    annotation = Path(open_split(DataRecipe(root=root), split).source.files(0)[1])
    annotation.write_text(annotation.read_text().replace("b.jpg", "a.jpg"))
    said = assert_all_agree(root, tmp_path / "out", split)
    assert said is not None and said.startswith(f"{annotation}: two ")


def twins(root: Path, name: str, files: tuple[str, str]) -> None:
    """Two photos in a layout, all of whose pixels are of class cat on the first and dog on the second."""
    whole = [[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]]
    content: list[dict] = []
    xml = "<annotations><meta><labels><label><name>cat</name></label><label><name>dog</name></label></labels></meta>"
    for index, (file, label) in enumerate(zip(files, ("cat", "dog"), strict=True)):
        photo(root / PHOTOS_OF[name] / file, (SIDE, SIDE), seed=index)
        size = {"height": SIDE, "width": SIDE}
        if name == "images":
            grey(root / "masks" / f"{file}.png", np.full((SIDE, SIDE), index + 1))
        elif name == "labelme":
            shape = {"label": label, "points": whole, "shape_type": "polygon"}
            drawn = {"imagePath": file, "imageHeight": SIDE, "imageWidth": SIDE, "shapes": [shape]}
            text(root / f"{index}.json", json.dumps(drawn))
        elif name == "supervisely":
            box = {"exterior": [[0, 0], [SIDE, SIDE]], "interior": []}
            drawn = {"classTitle": label, "geometryType": "rectangle", "points": box}
            text(root / f"set/ann/{file}.json", json.dumps({"size": size, "objects": [drawn]}))
        elif name == "label-studio":
            value = {"points": [[0, 0], [100, 0], [100, 100], [0, 100]], "polygonlabels": [label]}
            region = {
                "type": "polygonlabels",
                "value": value,
                "original_height": SIDE,
                "original_width": SIDE,
            }
            content.append(
                {"id": index, "data": {"image": f"s3://b/{file}"}, "annotations": [{"result": [region]}]}
            )
        xml += f'<image name="{file}" height="{SIDE}" width="{SIDE}"><polygon label="{label}" points="'
        xml += ";".join(f"{x},{y}" for x, y in whole) + '"/></image>'
    if name == "images":
        text(root / "classes.txt", "background\ncat\ndog\n")
    elif name == "supervisely":
        text(root / "meta.json", json.dumps({"classes": [{"title": "cat"}, {"title": "dog"}]}))
    elif name == "label-studio":
        text(root / "export.json", json.dumps(content))
    elif name == "cvat":
        text(root / "annotations.xml", f"{xml}</annotations>")
    elif name == "coco":
        images = [{"id": i, "file_name": file, "height": SIDE, "width": SIDE} for i, file in enumerate(files)]
        ring = [np.ravel(whole).tolist()]
        drawn = [{"id": i, "image_id": i, "category_id": i + 5, "segmentation": ring} for i in range(2)]
        categories = [{"id": 5, "name": "cat"}, {"id": 6, "name": "dog"}]
        text(root / "a.json", json.dumps({"images": images, "annotations": drawn, "categories": categories}))


PHOTOS_OF = {
    "images": "images", "coco": "images", "cvat": "images", "labelme": "", "supervisely": "set/img",
    "label-studio": "images",
}  # fmt: skip


# photos that differ by their suffix, or by their folder, alone
@pytest.mark.parametrize("files", [("a.jpg", "a.png"), ("x/a.jpg", "y/a.jpg")], ids=["suffix", "folder"])
@pytest.mark.parametrize("name", PHOTOS_OF)
def test_photos_of_one_name_keep_their_own_labels(name: str, files: tuple[str, str], tmp_path: Path) -> None:
    root = tmp_path / "data"
    if name == "supervisely" and "/" in files[0]:
        pytest.skip("its photos lie in one folder")
    twins(root, name, files)
    assert recognise(root) == name
    source = open_split(DataRecipe(root=root), "all").source
    assert [source.files(index)[0].endswith(file) for index, file in enumerate(files)] == [True, True]
    assert shown(source) == ["cat", "dog"]
    convert(root, tmp_path / "plain", split="all")
    webdataset(root, tmp_path / "shards", split="all")
    tfrecord(root, tmp_path / "records", split="all", shards=1)
    for written in ("plain", "shards", "records"):
        again = open_split(DataRecipe(root=tmp_path / written), "all").source
        assert sorted(shown(again)) == ["cat", "dog"]
        assert all(
            np.array_equal(again.photo(index), source.photo(shown(source).index(label)))
            for index, label in enumerate(shown(again))
        )


def shown(source: Source) -> list[str]:
    """The class of each sample's first pixel; names must tell the samples apart."""
    assert len({source.name(index) for index in range(len(source))}) == len(source)
    return [source.classes[source.label(index)[0, 0]] for index in range(len(source))]


def test_photos_that_a_layout_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("images", "voc", "camvid", "roboflow", "cvat-masks", "coco-stuff", "ade20k", "yolo"):
        SETS[name](root / name)
        split = find(root / name, Expected()).splits["train"]
        first = Path(open_split(DataRecipe(root=root / name), split).source.files(0)[0])
        photo(first.with_suffix(".tif"), (SIDE, SIDE))
        said = str(assert_all_agree(root / name, tmp_path / "out", split))
        assert "differ by their suffix alone" in said or "may be " in said
    twins(root / "ls", "label-studio", ("x/a.jpg", "y/a.jpg"))
    for folder in ("x", "y"):
        (root / f"ls/images/{folder}/a.jpg").rename(root / "ls/images/a.jpg")
    said = assert_all_agree(root / "ls", tmp_path / "out", "all")
    assert said is not None and "two photos, y/a and x/a" in said
    twins(root / "list", "coco", ("x/a.jpg", "y/a.jpg"))
    text(root / "list/train.txt", "a\n")
    assert "'a' may be x/a or y/a" in str(assert_all_agree(root / "list", tmp_path / "out"))


@pytest.mark.parametrize("word", ["_mask", "_label", "_seg", "-gt"])
@pytest.mark.parametrize("name", ["images", "voc", "camvid", "cvat-masks", "coco-stuff", "ade20k"])
def test_masks_with_a_word_at_their_name_are_found_in_every_layout(
    name: str, word: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    SETS[name](root)
    split = find(root, Expected()).splits["train"]
    before = open_split(DataRecipe(root=root), split).source
    masks = [Path(before.files(index)[1]) for index in range(len(before))]
    for mask in masks:
        mask.rename(mask.with_stem(mask.stem + word))
    assert assert_all_agree(root, tmp_path / "out", split) is None
    after = open_split(DataRecipe(root=root), split).source
    assert [after.name(index) for index in range(len(after))] == [before.name(i) for i in range(len(before))]
    assert [after.files(index)[1] for index in range(len(after))] == [
        str(m.with_stem(m.stem + word)) for m in masks
    ]
