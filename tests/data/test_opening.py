"""From a recipe's words to an open split: recognition, options, completeness, resolved values."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image
from support.data_folders import grey, photo, text

from deeplab.cli.data import convert
from deeplab.cli.evaluate import open_labelled
from deeplab.cli.stored_data import StoredData
from deeplab.config.labels import LabelSpec
from deeplab.data.layouts import LAYOUTS, recognise
from deeplab.data.opening import open_source, open_split, resolve
from deeplab.data.recipe import DataRecipe
from deeplab.data.storage import Storage
from deeplab.errors import UserError


@pytest.fixture
def plain(tmp_path):
    """Photo a with classes background, cat, dog and the values 0, 1, 2, 255."""
    photo(tmp_path / "images/a.png", (1, 4))
    grey(tmp_path / "masks/a.png", [[0, 1, 2, 255]])
    text(tmp_path / "classes.txt", "background\ncat\ndog\n")
    text(tmp_path / "train.txt", "a\n")
    return tmp_path


def test_unknown_content_says_what_was_looked_for(tmp_path):
    text(tmp_path / "notes.md", "nothing")
    with pytest.raises(UserError) as caught:
        recognise(tmp_path)
    message = str(caught.value)
    assert "It holds: notes.md" in message and all(f"  {name}: " in message for name in LAYOUTS)
    with pytest.raises(UserError, match="is no folder"):
        recognise(tmp_path / "absent")
    with pytest.raises(UserError, match="layout 'vok' is unknown; allowed: auto, cityscapes, voc"):
        open_source(tmp_path, "train", Storage(layout="vok"))


def test_options_that_a_layout_does_not_take_are_refused(tmp_path):
    photo(tmp_path / "images/training/ADE_1.jpg", (1, 2))
    grey(tmp_path / "annotations/training/ADE_1.png", [[0, 1]])
    with pytest.raises(UserError, match=r"names=.*layout ade20k.*leave names out"):
        open_source(tmp_path, "train", Storage(names=("a", "b")))


def test_open_split_renumbers_by_the_recipe(plain):
    dataset = open_split(DataRecipe(root=plain, classes=("dog", "background")), "train")
    assert dataset[0][1].tolist() == [[1, 255, 0, 255]]
    everything = open_split(DataRecipe(root=plain), "train")
    assert everything[0][1].tolist() == [[0, 1, 2, 255]]


def test_resolve_fills_in_what_the_data_say(plain):
    resolved = resolve(DataRecipe(root=plain, other="background", classes=("background", "dog")))
    assert resolved.layout == "images" and resolved.names == ("background", "cat", "dog")
    assert resolved.classes == ("background", "dog") and resolve(resolved) == resolved
    assert resolve(DataRecipe(root=plain)).classes == ("background", "cat", "dog")


def test_a_class_that_looks_like_none_is_warned_of_unless_it_is_chosen(plain):
    text(plain / "classes.txt", "background\ncat\nVoid\n")
    with pytest.warns(
        UserWarning, match=r"classes.txt lists Void as a class.*data.classes=\[background,cat\]"
    ):
        resolve(DataRecipe(root=plain))
    for chosen in (("background", "cat"), ("background", "cat", "Void")):
        assert resolve(DataRecipe(root=plain, classes=chosen)).classes == chosen


def test_one_class_is_too_few(plain):
    text(plain / "classes.txt", "cat\n")
    with pytest.raises(UserError, match="one class only"):
        resolve(DataRecipe(root=plain))
    with pytest.raises(ValueError, match="at least two"):
        DataRecipe(root=plain, classes=("cat",))


def test_missing_files_are_refused_with_their_number(plain):
    text(plain / "train.txt", "a\nb\n")
    source = open_source(plain, "train")
    assert len(source) == 1 and len(source.missing) == 2
    with pytest.raises(
        UserError, match=r"2 files are missing, first: photo b in .*images; mask b\.png in .*masks"
    ):
        open_split(DataRecipe(root=plain), "train")


def test_sources_travel_to_workers(plain):
    source = pickle.loads(pickle.dumps(open_source(plain, "train")))
    assert source.label(0).tolist() == [[0, 1, 2, 255]]


def test_camvid_void_stays_void_in_a_resolved_recipe(tmp_path):
    photo(tmp_path / "train/a.png", (1, 3))
    grey(tmp_path / "trainannot/a.png", [[0, 10, 11]])
    resolved = resolve(DataRecipe(root=tmp_path))
    assert resolved.layout == "camvid" and len(resolved.names) == 11
    assert open_split(resolved, "train").source.label(0).tolist() == [[0, 10, 255]]


@pytest.mark.parametrize("classes", [255, 256, 300])
def test_classes_beyond_what_masks_have_values_for_are_refused_alike(plain, deeplab, classes):
    text(plain / "classes.txt", "".join(f"k{index}\n" for index in range(classes)))
    code, _, err = deeplab("data", "check", plain, "-o", plain / "check")
    if classes == 255:
        assert len(open_source(plain, "train").classes) == 255 and "255 classes" not in err
        return
    for see in (resolve, lambda recipe: open_split(recipe, "train")):
        with pytest.raises(UserError, match=f"{classes} classes .classes.txt.; allowed: at most 255"):
            see(DataRecipe(root=plain))
    assert code == 2 and f"{classes} classes (classes.txt); allowed: at most 255" in err


def coco_of_many(root):
    """300 categories and background, of which photo a shows the last and the 255th, each on a half."""
    categories = [{"id": number + 1, "name": f"k{number}"} for number in range(300)]
    halves = {300: [0, 0, 2, 0, 2, 2, 0, 2], 255: [2, 0, 4, 0, 4, 2, 2, 2]}
    drawn = [{"image_id": 1, "category_id": kind, "segmentation": [ring]} for kind, ring in halves.items()]
    for split in ("train", "val"):
        images = [{"id": 1, "file_name": "a.png", "height": 2, "width": 4}]
        content = {"images": images, "annotations": drawn, "categories": categories}
        text(root / f"annotations/instances_{split}.json", json.dumps(content))
        photo(root / f"{split}/a.png", (2, 4), seed=len(split))


def masks_of_many(root):
    """The same with masks of 16 bits, and the last pixel ignored."""
    for split in ("train", "val"):
        photo(root / f"images/{split}/a.png", (2, 4), seed=len(split))
        (root / f"masks/{split}").mkdir(parents=True)
        values = np.array([[300, 300, 255, 255], [300, 300, 255, 65535]], np.uint16)
        Image.fromarray(values).save(root / f"masks/{split}/a.png")
    text(root / "classes.txt", "background\n" + "".join(f"k{number}\n" for number in range(300)))


@pytest.mark.parametrize("make", [coco_of_many, masks_of_many])
@pytest.mark.parametrize(("other", "rest"), [("background", 0), ("ignore", 255)])
def test_a_choice_of_many_classes_works_everywhere(tmp_path, deeplab, make, other, rest):
    root, keep = tmp_path / "data", ("background", "k299")
    make(root)
    last = 255 if make is masks_of_many else rest
    expected = [[1, 1, rest, rest], [1, 1, rest, last]]
    recipe = resolve(DataRecipe(root=root, classes=keep, other=other))
    assert open_split(recipe, "train").load(0)[1].tolist() == expected
    model = LabelSpec.named(keep if other == "background" else ("k299", "k0"))
    seen = open_labelled(root, "train", StoredData(other=other), model).load(0)[1]
    one, others = (1, 0) if other == "background" else (0, 255)
    assert seen.tolist() == [[one, one, others, others], [one, one, others, 255 if last == 255 else others]]
    convert(root, tmp_path / "plain", stored=StoredData(keep=keep, other=other))
    assert (tmp_path / "plain/classes.txt").read_text() == "background\nk299\n"
    assert np.array(Image.open(tmp_path / "plain/masks/train/a.png")).tolist() == expected
    chosen = ("--keep", *keep, "--other", other)
    code, out, err = deeplab("data", "check", root, "-o", tmp_path / "check", *chosen)
    report = json.loads((tmp_path / "check/check.json").read_text())
    assert report["classes"] == [*keep] and report["splits"][0]["pixels"] == [
        sum(row.count(index) for row in expected) for index in range(2)
    ]
    assert code == (other == "ignore"), (out, err)


def test_eval_does_with_other_classes_as_it_is_told_or_says_what_it_does(plain):
    def seen(names, **told):
        return open_labelled(plain, "train", StoredData(**told), LabelSpec.named(names)).load(0)[1]

    whole, two = seen(("background", "cat", "dog")), ("background", "dog")
    assert 1 in whole
    for other, value in (("background", 0), ("ignore", 255)):
        assert np.array_equal(seen(two, other=other), np.array([0, value, 1, *[255] * 253])[whole])
    with pytest.warns(
        UserWarning, match=r"lacks classes of the masks \(cat\), which count as its background"
    ):
        assert np.array_equal(seen(two), seen(two, other="background"))
    with pytest.warns(UserWarning, match=r"\(background\), which are ignored"):
        assert set(np.unique(seen(("dog", "cat")))) <= {0, 1, 255}
    with pytest.raises(UserError, match="--keep background cat: a model is measured on all of its classes"):
        seen(two, keep=("background", "cat"))


@pytest.mark.parametrize("layout", ["images", "voc"])
def test_masks_of_black_and_white_are_two_classes_where_their_values_are_given(tmp_path, deeplab, layout):
    root, masks = tmp_path / "data", {"images": "masks", "voc": "SegmentationClass"}[layout]
    for name in ("a", "b"):
        photo(
            root / {"images": "images", "voc": "JPEGImages"}[layout] / f"{name}.png", (1, 3), seed=ord(name)
        )
        grey(root / masks / f"{name}.png", [[0, 255, 255]])
    text(root / "classes.txt", "ground\nbox\n")
    text(root / "train.txt", "a\n")
    text(root / "val.txt", "b\n")
    recipe = DataRecipe(root=root, values=(0, 255))
    assert open_split(resolve(recipe), "train").load(0)[1].tolist() == [[0, 1, 1]]
    code, out, _ = deeplab("data", "check", root, "-o", tmp_path / "check")
    assert code == 1 and "mask-binary" in out and "data.values=[0,255]" in out
    code, out, _ = deeplab("data", "check", root, "-o", tmp_path / "check", "--values", 0, 255)
    report = json.loads((tmp_path / "check/check.json").read_text())
    assert code == 0 and report["splits"][0]["pixels"] == [1, 2] and not report["findings"], out
    code, *_ = deeplab("data", "convert", root, tmp_path / "plain", "--values", 0, 255)
    assert code == 0 and np.array(Image.open(tmp_path / "plain/masks/train/a.png")).tolist() == [[0, 1, 1]]
    grey(root / masks / "a.png", [[0, 7, 255]])
    with pytest.raises(
        UserError, match=r"a\.png: value 7 at row 0, column 1 is no class; allowed: 0, 255; fix"
    ):
        open_split(recipe, "train").load(0)
    for values, message in (((0, 1, 2), "for 2 classes"), ((0, 0), "each another"), ((0, 256), r"0\.\.255")):
        with pytest.raises(UserError, match=message):
            open_source(root, "train", Storage(values=values))
