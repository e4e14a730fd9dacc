"""From a recipe's words to an open split: recognition, options, completeness, resolved values."""

import pickle

import pytest
from support.data_folders import grey, photo, text

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
    with pytest.raises(UserError, match=f"{classes} classes .classes.txt.; allowed: at most 255"):
        open_source(plain, "train")
    assert code == 2 and f"{classes} classes (classes.txt); allowed: at most 255" in err
