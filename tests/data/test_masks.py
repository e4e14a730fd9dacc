"""Layouts that store masks as pictures: recognised by content, and read with the classes they mean."""

import json

import numpy as np
import pytest
from PIL import Image
from support.data_folders import colours, grey, photo, text
from support.shared_folder import shared

from deeplab.data.dataset import SegmentationDataset
from deeplab.data.layouts import recognise
from deeplab.data.layouts.cityscapes import export_predictions, to_label_ids
from deeplab.data.opening import open_source, open_split, split_names
from deeplab.data.recipe import DataRecipe
from deeplab.data.storage import Storage
from deeplab.errors import UserError


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    stem = "berlin_000000_000019"
    expected = photo(tmp_path / f"leftImg8bit/train/berlin/{stem}_leftImg8bit.png", (2, 5))
    grey(
        tmp_path / f"gtFine/train/berlin/{stem}_gtFine_labelIds.png",
        [[7, 8, 11, 12, 13], [33, 0, 26, 9, 255]],
    )
    assert recognise(tmp_path) == "cityscapes" and split_names(tmp_path) == ("train",)
    source = open_source(tmp_path, "train")
    assert source.name(0) == stem and len(source.classes) == 19
    assert source.label(0).tolist() == [[0, 1, 2, 3, 4], [18, 255, 13, 255, 255]]
    np.testing.assert_array_equal(source.photo(0), expected)


def test_cityscapes_takes_the_references_train_ids_too(tmp_path):
    photo(tmp_path / "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png", (1, 3))
    photo(tmp_path / "leftImg8bit/val/ulm/ulm_000002_000019_leftImg8bit.png", (1, 3))
    grey(tmp_path / "gtFine/val/ulm/ulm_000001_000019_gtFine_labelTrainIds.png", [[18, 255, 0]])
    source = open_source(tmp_path, "val")
    assert source.label(0).tolist() == [[18, 255, 0]]
    assert len(source) == 1 and "ulm_000002_000019_gtFine_labelTrainIds.png" in source.missing[0]


def test_cityscapes_outlines_give_what_its_label_ids_do(tmp_path):
    stem = "train/ulm/ulm_000000_000019"
    photo(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png", (3, 6))
    whole = [[0, 0], [5, 0], [5, 2], [0, 2]]
    drawn = {"road": whole, "cargroup": [[1, 1], [2, 1], [2, 2], [1, 2]], "license plate": [[1, 1], [2, 1], [2, 2]],
             "ego vehicle": [[4, 2], [5, 2], [5, 1]], "person": [[0, 0], [1, 0]]}  # fmt: skip
    objects = [{"label": name, "polygon": ring} for name, ring in drawn.items()]
    objects.append({"label": "sky", "polygon": whole, "deleted": 1})
    file = tmp_path / f"gtFine/{stem}_gtFine_polygons.json"
    text(file, json.dumps({"imgHeight": 3, "imgWidth": 6, "objects": objects}))
    source = open_source(tmp_path, "train")
    assert not source.missing and source.name(0) == "ulm_000000_000019"
    label = source.label(0)
    assert label[0].tolist() == [0] * 6 and label[2].tolist() == [0, 13, 13, 0, 255, 255]
    assert source.bad == (f"object 5 (person) in {file}: it has fewer than 3 points",)
    objects[0]["label"] = "raod"
    text(file, json.dumps({"imgHeight": 3, "imgWidth": 6, "objects": objects}))
    with pytest.raises(UserError, match="the label 'raod' is no class; allowed: road, sidewalk"):
        open_source(tmp_path, "train").label(0)
    # where there are masks they count
    grey(tmp_path / f"gtFine/{stem}_gtFine_labelIds.png", np.full((3, 6), 26))
    assert (open_source(tmp_path, "train").label(0) == 13).all()


def test_cityscapes_wrong_id_is_named_with_its_file(tmp_path):
    photo(tmp_path / "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png", (1, 3))
    grey(tmp_path / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png", [[7, 34, 7]])
    with pytest.raises(UserError, match=r"labelIds\.png: value 34 at row 0, column 1.*label ids 0\.\.33"):
        open_source(tmp_path, "train").label(0)


def test_cityscapes_ids_there_and_back():
    # the ids that the benchmark evaluates, from its label definitions
    evaluated = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    assert to_label_ids(np.arange(19, dtype=np.uint8)).tolist() == evaluated
    assert to_label_ids(np.array([255, 18], dtype=np.uint8)).tolist() == [0, 33]


def test_cityscapes_export_for_the_test_server(tmp_path):
    grey(tmp_path / "in/a/munich_000010_000019_leftImg8bit.png", [[0, 18], [10, 255]])
    assert export_predictions(tmp_path / "in", tmp_path / "out") == 1
    with Image.open(tmp_path / "out/munich_000010_000019_leftImg8bit.png") as written:
        assert written.mode == "L" and np.array(written).tolist() == [[7, 33], [23, 0]]
    grey(tmp_path / "in/b/munich_000010_000019.png", [[0]])
    with pytest.raises(UserError, match="both of munich_000010_000019"):
        export_predictions(tmp_path / "in", tmp_path / "out")
    grey(tmp_path / "in2/munich_000010_000019.png", [[19]])
    with pytest.raises(UserError, match="value 19 is no train id"):
        export_predictions(tmp_path / "in2", tmp_path / "out2")
    grey(tmp_path / "in3/cat.png", [[1]])
    with pytest.raises(UserError, match=r"cat\.png: the test server tells photos by names"):
        export_predictions(tmp_path / "in3", tmp_path / "out3")


def test_ade20k_other_is_ignored_and_classes_start_at_zero(tmp_path):
    photo(tmp_path / "images/training/ADE_train_1.jpg", (1, 4))
    grey(tmp_path / "annotations/training/ADE_train_1.png", [[0, 1, 13, 150]])
    (tmp_path / "images/validation").mkdir()
    (tmp_path / "annotations/validation").mkdir()
    assert recognise(tmp_path) == "ade20k" and split_names(tmp_path) == ("train", "val")
    source = open_source(tmp_path, "train")
    assert source.label(0).tolist() == [[255, 0, 12, 149]]
    names = [source.classes[index] for index in (0, 12, 149)]
    assert names == ["wall", "person", "flag"] and len(source.classes) == 150
    assert len(open_source(tmp_path, "training")) == 1
    grey(tmp_path / "annotations/training/ADE_train_1.png", [[151, 1, 1, 1]])
    with pytest.raises(UserError, match="value 151"):
        source.label(0)


def test_camvid_void_is_ignored(tmp_path):
    photo(tmp_path / "train/a.png", (1, 3))
    grey(tmp_path / "trainannot/a.png", [[0, 10, 11]])
    grey(tmp_path / "trainannot/b.png", [[0, 10, 11]])
    assert recognise(tmp_path) == "camvid"
    source = open_source(tmp_path, "train")
    assert source.label(0).tolist() == [[0, 10, 255]] and source.classes[10] == "bicyclist"
    assert source.missing == (f"photo b in {tmp_path / 'train'}",)
    own = open_source(tmp_path, "train", Storage(names=tuple("abcdefghijkl")))
    assert own.label(0).tolist() == [[0, 10, 11]]


def test_real_camvid_has_the_published_pixel_shares():
    source = open_source(shared("assets/camvid"), "train")
    assert (
        len(source) == 367 and len(open_source(shared("assets/camvid"), "val")) == 101 and not source.missing
    )
    # every tenth photo comes near the shares of all
    counts = sum(np.bincount(source.label(index).ravel(), minlength=256) for index in range(0, 367, 10))
    shares = 100 * counts / counts.sum()
    published = [16.85, 23.26, 0.98, 31.66, 4.49, 9.72, 1.17, 1.13, 5.87, 0.64, 0.29]
    np.testing.assert_allclose(shares[:11], published, atol=2)
    assert abs(shares[255] - 3.95) < 1 and shares[11:255].sum() == 0


def test_coco_stuff_leaves_out_the_ids_that_were_never_drawn(tmp_path):
    photo(tmp_path / "images/val2017/000000000139.jpg", (1, 5))
    # stored values are id - 1: person 1, stop sign 13, banner 92, wood 182
    grey(tmp_path / "stuffthingmaps_trainval2017/val2017/000000000139.png", [[0, 12, 91, 181, 255]])
    assert recognise(tmp_path) == "coco-stuff" and split_names(tmp_path) == ("val",)
    source = open_source(tmp_path, "val")
    assert len(source.classes) == 171
    labels = source.label(0)[0].tolist()
    assert [source.classes[label] for label in labels[:4]] == ["person", "stop sign", "banner", "wood"]
    assert labels == [0, 11, 80, 170, 255]


def test_plain_folder_with_lists(tmp_path):
    for name in ("a", "b", "c"):
        photo(tmp_path / f"images/{name}.jpg", (1, 2))
        grey(tmp_path / f"masks/{name}.png", [[0, 1]])
    text(tmp_path / "classes.txt", "background\ncat\n")
    text(tmp_path / "train.txt", "a.jpg\nb\n")
    text(tmp_path / "val.txt", "c\n")
    assert recognise(tmp_path) == "images" and split_names(tmp_path) == ("train", "val")
    source = open_source(tmp_path, "train")
    assert [source.name(index) for index in range(2)] == ["a", "b"] and source.classes == (
        "background",
        "cat",
    )
    assert open_source(tmp_path, "all").missing == () and len(open_source(tmp_path, "all")) == 3
    with pytest.raises(UserError, match="no split 'test'; lists found: train, val"):
        open_source(tmp_path, "test")


@pytest.mark.parametrize("form", ["images/{split}/{name}.jpg masks/{split}/{name}.png",
                                  "{split}/images/{name}.jpg {split}/masks/{name}.png"])  # fmt: skip
def test_plain_folder_with_folders_as_splits(tmp_path, form):
    for split, names in {"train": "ab", "valid": "c"}.items():
        for name in names:
            picture, mask = form.format(split=split, name=name).split()
            photo(tmp_path / picture, (1, 2))
            grey(tmp_path / mask, [[0, 1]])
    text(tmp_path / "classes.txt", "background\ncat\n")
    assert recognise(tmp_path) == "images" and split_names(tmp_path) == ("train", "val")
    assert len(open_source(tmp_path, "train")) == 2 and open_source(tmp_path, "val").name(0) == "c"


def test_plain_folder_without_split_is_split_by_name(tmp_path):
    for index in range(40):
        photo(tmp_path / f"images/p{index}.png", (1, 2))
        grey(tmp_path / f"masks/p{index}.png", [[0, 1]])
    text(tmp_path / "classes.txt", "background\ncat\n")
    train, val = (open_source(tmp_path, split) for split in ("train", "val"))
    names = [{source.name(i) for i in range(len(source))} for source in (train, val)]
    # names whose SHA-256 begins with less than 0x3333, by sha256sum
    assert names[1] == {"p0", "p7", "p9", "p11", "p17", "p28", "p33", "p37", "p38"}
    assert len(names[0]) == 31 and not names[0] & names[1]
    (tmp_path / "images/p7.png").unlink()
    (tmp_path / "masks/p7.png").unlink()
    again = open_source(tmp_path, "val")
    assert {again.name(i) for i in range(len(again))} == names[1] - {"p7"}


def test_plain_folder_needs_class_names(tmp_path):
    photo(tmp_path / "images/a.png", (1, 2))
    grey(tmp_path / "masks/a.png", [[0, 1]])
    with pytest.raises(UserError, match=r"classes\.txt is missing.*data\.names"):
        open_source(tmp_path, "all")
    assert open_source(tmp_path, "all", Storage(names=("background", "cat"))).classes[1] == "cat"


def test_roboflow_masks(tmp_path):
    photo(tmp_path / "train/x_jpg.rf.1.jpg", (1, 3))
    grey(tmp_path / "train/x_jpg.rf.1_mask.png", [[0, 2, 1]])
    text(tmp_path / "train/_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n2, dog\n")
    (tmp_path / "valid").mkdir()
    assert recognise(tmp_path) == "roboflow" and split_names(tmp_path) == ("train", "val")
    source = open_source(tmp_path, "train")
    assert source.classes == ("background", "cat", "dog") and source.label(0).tolist() == [[0, 2, 1]]
    grey(tmp_path / "train/x_jpg.rf.1_mask.png", [[0, 3, 1]])
    with pytest.raises(UserError, match=r"value 3 at row 0, column 1.*_classes\.csv: 0, 1, 2"):
        source.label(0)


def test_cvat_masks_are_colours(tmp_path):
    text(
        tmp_path / "labelmap.txt",
        "# label:color_rgb:parts:actions\ncat:250,50,83::\nignore:1,2,3::\ndog:0,0,9::\n",
    )
    text(tmp_path / "ImageSets/Segmentation/default.txt", "a\n")
    photo(tmp_path / "JPEGImages/a.jpg", (1, 4))
    colours(tmp_path / "SegmentationClass/a.png", [[[0, 0, 0], [250, 50, 83], [1, 2, 3], [0, 0, 9]]])
    assert recognise(tmp_path) == "cvat-masks" and split_names(tmp_path) == ("train", "val")
    source = open_source(tmp_path, "all")
    assert source.classes == ("background", "cat", "dog") and source.label(0).tolist() == [[0, 1, 255, 2]]
    colours(tmp_path / "SegmentationClass/a.png", [[[0, 0, 0], [250, 50, 84], [1, 2, 3], [0, 0, 9]]])
    with pytest.raises(UserError, match=r"a\.png: colour \(250, 50, 84\) at row 0, column 1"):
        source.label(0)
    text(tmp_path / "labelmap.txt", "cat;1;2;3\n")
    with pytest.raises(UserError, match="'cat;1;2;3' is not of the form"):
        open_source(tmp_path, "all")


def test_cvat_masks_as_palette_read_alike(tmp_path):
    text(tmp_path / "labelmap.txt", "background:0,0,0::\ncat:128,0,0::\n")
    text(tmp_path / "ImageSets/Segmentation/train.txt", "a\n")
    photo(tmp_path / "JPEGImages/a.jpg", (1, 2))
    palette = Image.fromarray(np.array([[7, 3]], np.uint8))
    palette.putpalette([0, 0, 0] * 3 + [128, 0, 0] + [0, 0, 0] * 4)
    (tmp_path / "SegmentationClass").mkdir()
    palette.save(tmp_path / "SegmentationClass/a.png")
    assert open_source(tmp_path, "train").label(0).tolist() == [[0, 1]]


def test_voc_with_classes_of_ones_own(tmp_path):
    text(tmp_path / "ImageSets/Segmentation/train.txt", "a\n")
    photo(tmp_path / "JPEGImages/a.jpg", (1, 2))
    grey(tmp_path / "SegmentationClass/a.png", [[0, 2]])
    assert recognise(tmp_path) == "voc" and len(open_source(tmp_path, "train").classes) == 21
    text(tmp_path / "classes.txt", "background\ncat\n")
    source = open_source(tmp_path, "train")
    assert source.classes == ("background", "cat")
    with pytest.raises(UserError, match=r"a\.png: value 2 at row 0, column 1 is no class; allowed: 0\.\.1"):
        SegmentationDataset(source)[0]


def test_voc_lists_of_paths_as_the_papers_have_them(tmp_path):
    text(tmp_path / "ImageSets/Segmentation/train_aug.txt", "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n")
    photo(tmp_path / "JPEGImages/a.jpg", (1, 2))
    grey(tmp_path / "SegmentationClassAug/a.png", [[0, 2]])
    source = open_source(tmp_path, "train_aug")
    assert source.name(0) == "a" and not source.missing


def test_sixteen_bit_masks_are_read_where_they_fit(tmp_path):
    photo(tmp_path / "images/a.png", (1, 2))
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.array([[0, 1]], np.uint16)).save(tmp_path / "masks/a.png")
    source = open_source(tmp_path, "all", Storage(names=("background", "cat")))
    assert source.label(0).dtype == np.uint8 and source.label(0).tolist() == [[0, 1]]
    Image.fromarray(np.array([[0, 256]], np.uint16)).save(tmp_path / "masks/a.png")
    with pytest.raises(UserError, match=r"a\.png: value 256 at row 0, column 1"):
        source.label(0)


def ade20k_photo(root, name, values, *, objects=()):
    """A photo of the full ADE20K, its objects by R / 10 * 256 + G, and its JSON."""
    place = root / f"images/ADE/training/urban/street/{name}"
    numbers = np.array(values)
    photo(place.with_name(f"{name}.jpg"), numbers.shape)
    rgb = np.stack([numbers // 256 * 10, numbers % 256, np.full(numbers.shape, 9)], axis=-1)
    colours(place.with_name(f"{name}_seg.png"), rgb)
    entries = [{"name": word, "name_ndx": number} for number, word in objects]
    text(
        place.with_name(f"{name}.json"),
        json.dumps({"annotation": {"filename": f"{name}.jpg", "object": entries}}),
    )
    return place.with_name(f"{name}_seg.png")


def test_the_full_ade20k_has_more_objects_than_a_model_and_gives_those_chosen(tmp_path):
    ade20k_photo(tmp_path, "ADE_train_1", [[0, 1, 2978, 300]])
    text(tmp_path / "objects.txt", "".join(f"object{number}\n" for number in range(1, 3689)))
    assert recognise(tmp_path) == "ade20k-full" and split_names(tmp_path) == ("train",)
    source = open_source(tmp_path, "train")
    assert len(source.classes) == 3688 and source.label(0).tolist() == [[65535, 0, 2977, 299]]
    with pytest.raises(UserError, match=r"3688 classes .objects.txt.; allowed: at most 255.*data.classes"):
        open_split(DataRecipe(root=tmp_path), "train")
    chosen = open_split(DataRecipe(root=tmp_path, classes=("object2978", "object1")), "train")
    assert chosen.load(0)[1].tolist() == [[255, 1, 0, 255]]


def test_the_full_ade20k_names_objects_by_its_jsons_where_there_is_no_list(tmp_path):
    ade20k_photo(tmp_path, "ADE_train_1", [[0, 1]], objects=[(1, "wall")])
    ade20k_photo(tmp_path, "ADE_train_2", [[5, 4]], objects=[(5, "sky"), (4, "sky"), (5, "sky")])
    source = open_source(tmp_path, "train")
    # the same word for two objects is no name of a class
    assert source.classes == ("wall", "2", "3", "sky 4", "sky 5")
    assert [source.label(index).tolist() for index in range(2)] == [[[255, 0]], [[4, 3]]]


@pytest.mark.parametrize("number", [0, -3, 6656, 10**30])
def test_the_full_ade20k_refuses_numbers_that_no_colour_says(tmp_path, number):
    ade20k_photo(tmp_path, "ADE_train_1", [[0, 1]], objects=[(1, "wall"), (number, "sky")])
    with pytest.raises(
        UserError, match=r"ADE_train_1.json: an object's name_ndx is no number of one; allowed: 1\.\.6655"
    ):
        open_source(tmp_path, "train")


@pytest.mark.parametrize("colour", [(10, 0, 0), (15, 1, 0)])
def test_the_full_ade20k_refuses_what_is_no_object(tmp_path, colour):
    mask = ade20k_photo(tmp_path, "ADE_train_1", [[1, 2]])
    text(tmp_path / "objects.txt", "wall\nsky\n")
    colours(mask, [[(0, 1, 0), colour]])
    with pytest.raises(
        UserError, match=rf"ADE_train_1_seg.png: colour \({colour[0]}, {colour[1]}, 0\) at row 0, column 1"
    ):
        open_source(tmp_path, "train").label(0)


def test_mapillary_takes_the_version_that_is_asked_for_and_tells_names_apart(tmp_path):
    labels = [
        {"name": "object--sign--front", "readable": "Sign", "evaluate": True, "color": [0, 0, 0]},
        {"name": "object--sign--back", "readable": "Sign", "evaluate": True, "color": [1, 1, 1]},
        {"name": "void--unlabeled", "readable": "Unlabeled", "evaluate": False, "color": [0, 0, 0]},
    ]
    text(tmp_path / "config_v2.0.json", json.dumps({"labels": labels}))
    text(tmp_path / "config_v1.2.json", json.dumps({"labels": labels[1:]}))
    photo(tmp_path / "validation/images/a.jpg", (1, 3))
    grey(tmp_path / "validation/v2.0/labels/a.png", [[2, 0, 1]])
    mask = Image.fromarray(np.array([[0, 1, 0]], np.uint8))
    # as they come, with the colours of the configuration as their palette
    mask.putpalette([1, 1, 1, 0, 0, 0])
    (tmp_path / "validation/v1.2/labels").mkdir(parents=True)
    mask.save(tmp_path / "validation/v1.2/labels/a.png")
    assert recognise(tmp_path) == "mapillary" and split_names(tmp_path) == ("val",)
    source = open_source(tmp_path, "val")
    assert source.classes == ("object--sign--front", "object--sign--back")
    assert source.label(0).tolist() == [[255, 0, 1]]
    older = open_source(tmp_path, "validation", Storage(labels="v1.2"))
    assert older.classes == ("Sign",) and older.label(0).tolist() == [[0, 255, 0]]
    with pytest.raises(UserError, match=r"no config_v3.json; allowed: v1.2, v2.0"):
        open_source(tmp_path, "val", Storage(labels="v3"))


def test_mapillary_in_its_older_folders(tmp_path):
    labels = [
        {"name": "nature--sky", "readable": "Sky"},
        {"name": "void--ground", "readable": "Ground", "evaluate": False},
    ]
    text(tmp_path / "config.json", json.dumps({"labels": labels, "version": "1.1"}))
    for split in ("training", "testing"):
        photo(tmp_path / f"{split}/images/a.jpg", (1, 2))
    grey(tmp_path / "training/labels/a.png", [[1, 0]])
    assert open_source(tmp_path, "train").label(0).tolist() == [[255, 0]]
    test = open_source(tmp_path, "test")
    assert len(test) == 0 and len(test.unpaired) == 1


def test_loveda_ignores_no_data_and_tells_towns_from_the_country(tmp_path):
    for area, value in (("Urban", 2), ("Rural", 7)):
        photo(tmp_path / f"Train/{area}/images_png/0.png", (1, 3), seed=value)
        grey(tmp_path / f"Train/{area}/masks_png/0.png", [[0, 1, value]])
    photo(tmp_path / "Test/Urban/images_png/9.png", (1, 3))
    assert recognise(tmp_path) == "loveda" and split_names(tmp_path) == ("train", "test")
    source = open_source(tmp_path, "train")
    assert [source.name(index) for index in range(2)] == ["Rural/0", "Urban/0"]
    assert [source.label(index).tolist() for index in range(2)] == [[[255, 0, 6]], [[255, 0, 1]]]
    grey(tmp_path / "Train/Rural/masks_png/0.png", [[0, 8, 1]])
    with pytest.raises(
        UserError, match=r"value 8 at row 0, column 1 is no class; allowed: 0 .no data. and 1\.\.7"
    ):
        source.label(0)


def test_suim_reads_eight_colours_and_no_others(tmp_path):
    shades = [(0, 0, 0), (0, 0, 255), (0, 255, 0), (0, 255, 255), (255, 0, 0), (255, 0, 255), (255, 255, 0)]
    for folder in ("train_val", "TEST"):
        photo(tmp_path / f"{folder}/images/a.jpg", (1, 8))
        colours(tmp_path / f"{folder}/masks/a.bmp", [[*shades, (255, 255, 255)]])
    colours(tmp_path / "TEST/masks/RI/a.bmp", [[(0, 0, 0)] * 8])
    assert recognise(tmp_path) == "suim" and split_names(tmp_path) == ("train", "val", "test")
    for split in ("all", "test"):
        source = open_source(tmp_path, split)
        assert len(source) == 1 and source.label(0).tolist() == [[*range(8)]]
    assert source.classes[1] == "human divers" and source.classes[7] == "sea-floor and rocks"
    colours(tmp_path / "TEST/masks/a.bmp", [[*shades, (255, 250, 255)]])
    with pytest.raises(
        UserError, match=r"colour \(255, 250, 255\) at row 0, column 7 is no class of SUIM's eight colours"
    ):
        source.label(0)
