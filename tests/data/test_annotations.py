"""Layouts of annotation tools: outlines and run lengths become label maps worked out by hand."""

import base64
import io
import json
import pickle
import zlib

import numpy as np
import pytest
from PIL import Image
from support.data_folders import photo, text
from support.every_layout import SETS, SIDE

from deeplab.cli.data import convert
from deeplab.data.layouts import recognise
from deeplab.data.layouts.polygons import fill
from deeplab.data.layouts.run_lengths import brush_mask, coco_runs, from_runs
from deeplab.data.opening import open_source, open_split, split_names
from deeplab.data.recipe import DataRecipe
from deeplab.data.storage import Storage
from deeplab.doctor.found import Expected
from deeplab.doctor.run import check_data
from deeplab.errors import UserError

of_numpy_1 = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def write(path, content):
    text(path, json.dumps(content))


def label(root, split="all", **options):
    source = open_source(root, split, Storage(**options))
    assert not source.missing
    # workers receive a copy
    return pickle.loads(pickle.dumps(source)).label(0).tolist()


# --- COCO


def coco(*annotations, categories=((1, "cat"), (3, "dog")), size=(4, 5)):
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "height": size[0], "width": size[1]}],
        "categories": [{"id": number, "name": name} for number, name in categories],
        "annotations": [
            {"id": index, "image_id": 7, "category_id": category, "segmentation": drawn, "iscrowd": 0}
            for index, (category, drawn) in enumerate(annotations)
        ],
    }


def test_coco_polygon_covers_the_pixels_whose_centres_it_holds(tmp_path):
    photo(tmp_path / "train2017/a.jpg", (4, 5))
    # from (1, 1) to (4, 3): columns 1 to 3 of rows 1 and 2; a triangle on top of it in the first row
    drawn = coco((3, [[1, 1, 4, 1, 4, 3, 1, 3]]), (1, [[0, 0, 2.6, 0, 0, 1.3]]))
    write(tmp_path / "annotations/instances_train2017.json", drawn)
    assert recognise(tmp_path) == "coco" and split_names(tmp_path) == ("train",)
    source = open_source(tmp_path, "train")
    assert source.classes == ("background", "cat", "dog") and not source.missing
    assert source.label(0).tolist() == [[1, 1, 0, 0, 0], [0, 2, 2, 2, 0], [0, 2, 2, 2, 0], [0, 0, 0, 0, 0]]


def test_coco_small_objects_lie_on_top_and_parts_are_joined(tmp_path):
    photo(tmp_path / "images/a.jpg", (2, 4))
    small, large = (1, [[1, 0, 2, 0, 2, 1, 1, 1]]), (3, [[0, 0, 3, 0, 3, 2, 0, 2], [2, 0, 4, 0, 4, 2, 2, 2]])
    write(tmp_path / "annotations/instances_default.json", coco(small, large, size=(2, 4)))
    assert split_names(tmp_path) == ("train", "val")
    assert label(tmp_path) == [[2, 1, 2, 2], [2, 2, 2, 2]]


# in the string each number is a character from "0" on; the fourth is the difference to the second
@pytest.mark.parametrize("counts", [[1, 2, 3, 2], "1230"])
def test_coco_run_lengths_go_down_the_columns(tmp_path, counts):
    photo(tmp_path / "train/a.jpg", (2, 4))
    content = coco((1, {"size": [2, 4], "counts": counts}), size=(2, 4))
    write(tmp_path / "train/_annotations.coco.json", content)
    # column by column: 0 1 | 1 0 | 0 0 | 1 1
    assert label(tmp_path, "train") == [[0, 1, 0, 1], [1, 0, 0, 1]]


def test_coco_run_lengths_of_another_size_are_named(tmp_path):
    photo(tmp_path / "train/a.jpg", (2, 4))
    content = coco((1, {"size": [2, 4], "counts": "1232"}), size=(2, 4))
    write(tmp_path / "train/_annotations.coco.json", content)
    with pytest.raises(
        UserError, match=r"_annotations\.coco\.json: annotation 0: run lengths that add up to 10 for 2 x 4"
    ):
        label(tmp_path, "train")


@of_numpy_1
def test_coco_strings_against_its_own_library():
    api = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for density in (0.02, 0.5, 0.98):
        cover = (rng.random((61, 47)) < density).astype(np.uint8)
        stored = api.encode(np.asfortranarray(cover))
        runs = coco_runs(stored["counts"].decode())
        np.testing.assert_array_equal(from_runs(runs, (61, 47), by_column=True), cover)


@of_numpy_1
def test_coco_polygons_against_its_own_library():
    api = pytest.importorskip("pycocotools.mask")
    angle = np.linspace(0, 2 * np.pi, 14)[:-1]
    for radius in (6.3, 20, 38):
        ring = np.stack([40 + radius * np.cos(angle), 41 + radius * np.sin(angle) * 0.8], axis=1)
        theirs = api.decode(api.merge(api.frPyObjects([ring.ravel().tolist()], 90, 80))).astype(bool)
        top, left, pixels = fill([ring], (90, 80))
        ours = np.zeros((90, 80), bool)
        ours[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        # its outline is rounded to a fifth of a pixel, so only pixels that the outline crosses may differ
        assert (ours != theirs).sum() <= 0.12 * 2 * np.pi * radius


def test_coco_broken_file_is_named(tmp_path):
    photo(tmp_path / "images/a.jpg")
    content = coco((2, [[0, 0, 1, 1, 0, 1]]))
    write(tmp_path / "x.json", content)
    assert open_source(tmp_path, "all").stray == (f"annotation 0 of {tmp_path / 'x.json'}: category_id 2",)
    write(tmp_path / "x.json", coco((1, [[0, 0, 1, 1, 0]])))
    said = r"x\.json: has no usable outline .1 annotations, first: annotation 0 of a\.jpg .*: a coordinate is miss"
    with pytest.raises(UserError, match=said):
        label(tmp_path)


def test_coco_polygon_beyond_the_photo(tmp_path):
    photo(tmp_path / "images/a.jpg", (2, 3))
    outside = [[-9, -9, -5, -9, -5, -5]]
    write(tmp_path / "x.json", coco((1, [[-4, -3, 1, -3, 1, 9, -4, 9]]), (3, outside), size=(2, 3)))
    assert label(tmp_path) == [[1, 0, 0], [1, 0, 0]]


# --- labelme


def labelme(*shapes, size=(4, 4), image="a.jpg"):
    keys = ("label", "points", "shape_type")
    return {
        "version": "5.4.1", "flags": {}, "imagePath": image, "imageData": None,
        "imageHeight": size[0], "imageWidth": size[1],
        "shapes": [dict(zip(keys, shape, strict=True)) for shape in shapes],
    }  # fmt: skip


def test_labelme_shapes(tmp_path):
    photo(tmp_path / "a.jpg", (4, 4))
    png = io.BytesIO()
    Image.fromarray(np.array([[255, 0], [255, 255]], np.uint8)).save(png, "PNG")
    mask = ("fox", [[2, 2], [3, 3]], "mask")
    content = labelme(
        ("dog", [[0, 0], [4, 0], [4, 1], [0, 1]], "polygon"), ("cat", [[1, 0], [2, 2]], "rectangle"), mask
    )
    content["shapes"][2]["mask"] = base64.b64encode(png.getvalue()).decode()
    write(tmp_path / "a.json", content)
    assert recognise(tmp_path) == "labelme"
    source = open_source(tmp_path, "all")
    assert source.classes == ("background", "cat", "dog", "fox")
    assert source.label(0).tolist() == [[2, 1, 2, 2], [0, 1, 0, 0], [0, 0, 3, 0], [0, 0, 3, 3]]


def test_labelme_circle_and_names(tmp_path):
    photo(tmp_path / "train/a.jpg", (4, 4))
    write(
        tmp_path / "train/a.json",
        labelme(("cat", [[2, 2], [2, 3.2]], "circle"), ("__ignore__", [[0, 0], [1, 1]], "rectangle")),
    )
    text(tmp_path / "labels.txt", "__ignore__\n_background_\ndog\ncat\n")
    source = open_source(tmp_path, "train")
    assert source.classes == ("background", "dog", "cat")
    # radius 1.2 holds the four centres at distance 0.71, and none at 1.58
    assert source.label(0).tolist() == [[255, 0, 0, 0], [0, 2, 2, 0], [0, 2, 2, 0], [0, 0, 0, 0]]
    own = open_source(tmp_path, "train", Storage(names=("cat", "dog")))
    assert own.label(0)[1].tolist() == [255, 0, 0, 255]


def test_labelme_faults_are_named_with_their_file(tmp_path):
    photo(tmp_path / "a.jpg", (4, 4))
    write(tmp_path / "a.json", labelme(("cat", [[0, 0], [4, 4]], "line")))
    with pytest.raises(UserError, match=r"a\.json: shape 1 \(cat\): a shape of type 'line' has no area"):
        label(tmp_path)
    write(tmp_path / "a.json", labelme(("cat", [[0, 0], [4, 4]], "rectangle"), image="..\\b.jpg"))
    assert "b.jpg, which" in open_source(tmp_path, "all").missing[0]
    write(tmp_path / "a.json", labelme(("cta", [[0, 0], [4, 4]], "rectangle")))
    with pytest.raises(UserError, match=r"a\.json: the label 'cta' is no class; allowed: background, cat"):
        label(tmp_path, names=("background", "cat"))
    text(tmp_path / "a.json", "{")
    with pytest.raises(UserError, match=r"a\.json: cannot be read as JSON"):
        open_source(tmp_path, "all", Storage(layout="labelme"))


# --- CVAT for images


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><labels>
  <label><name>cat</name><color>#ff0000</color></label><label><name>dog</name></label>
</labels></task></meta>
<image id="0" name="a.png" subset="{subset}" width="5" height="3">
  <tag label="indoors"></tag>
  <polygon label="dog" points="0,0;2,0;2,3;0,3" z_order="1"></polygon>
  <box label="cat" xtl="0" ytl="0" xbr="5" ybr="1" z_order="0"></box>
  <mask label="cat" rle="1, 2, 1" left="3" top="1" width="2" height="2" z_order="0"></mask>
  {more}
</image></annotations>"""


def test_cvat_shapes_by_z_order(tmp_path):
    photo(tmp_path / "images/a.png", (3, 5))
    text(
        tmp_path / "annotations.xml",
        CVAT.format(subset="", more="").replace('<tag label="indoors"></tag>', ""),
    )
    assert recognise(tmp_path) == "cvat" and split_names(tmp_path) == ("train", "val")
    # mask: in its box of 2 x 2, rows 0 1 / 1 0
    assert label(tmp_path) == [[2, 2, 1, 1, 1], [2, 2, 0, 0, 1], [2, 2, 0, 1, 0]]
    assert open_source(tmp_path, "all").classes == ("background", "cat", "dog")


def test_cvat_subsets_are_splits_and_lines_are_refused(tmp_path):
    photo(tmp_path / "images/Train/a.png", (3, 5))
    line = '<polyline label="cat" points="0,0;1,1"></polyline>'
    text(tmp_path / "annotations.xml", CVAT.format(subset="Train", more=line))
    assert split_names(tmp_path) == ("train",)
    with pytest.raises(UserError, match=r"annotations\.xml: a shape of type 'polyline' has no area"):
        label(tmp_path, "train")
    text(tmp_path / "annotations.xml", "<annotations>")
    with pytest.raises(UserError, match=r"annotations\.xml: cannot be read as CVAT's XML"):
        open_source(tmp_path, "train")


def test_cvat_turned_box_and_ellipse(tmp_path):
    photo(tmp_path / "images/a.png", (3, 5))
    # a box of 3 x 1 about (2.5, 1.5), turned by 90 degrees, stands upright in column 2
    turned = '<box label="cat" xtl="1" ytl="1" xbr="4" ybr="2" rotation="90.0" z_order="5"></box>'
    ellipse = '<ellipse label="dog" cx="4.5" cy="1.5" rx="0.4" ry="1.2" z_order="6"></ellipse>'
    plain = CVAT.split("<tag")[0] + turned + ellipse + "</image></annotations>"
    text(tmp_path / "annotations.xml", plain.format(subset=""))
    assert label(tmp_path) == [[0, 0, 1, 0, 2], [0, 0, 1, 0, 2], [0, 0, 1, 0, 2]]


VIDEO = """<annotations><version>1.1</version>
<meta><task><labels><label><name>cat</name></label><label><name>dog</name></label></labels>
<original_size><width>5</width><height>3</height></original_size></task></meta>
<track id="0" label="dog">
  <polygon frame="0" keyframe="1" outside="0" points="0,0;2,0;2,3;0,3" z_order="1"></polygon>
  <polygon frame="1" keyframe="0" outside="0" points="1,0;3,0;3,3;1,3" z_order="1"></polygon>
  <polygon frame="2" keyframe="1" outside="1" points="1,0;3,0;3,3;1,3" z_order="1"></polygon>
</track>
<track id="1" label="cat"><box frame="1" outside="0" xtl="0" ytl="0" xbr="5" ybr="1" z_order="0"></box></track>
</annotations>"""


def test_cvat_tracks_are_told_apart_by_frame(tmp_path):
    for frame in range(3):
        photo(tmp_path / f"images/frame_{frame:06d}.png", (3, 5))
    text(tmp_path / "annotations.xml", VIDEO)
    assert recognise(tmp_path) == "cvat"
    source = open_source(tmp_path, "all")
    assert [source.name(index) for index in range(3)] == [f"frame_{frame:06d}" for frame in range(3)]
    assert source.label(0).tolist() == [[2, 2, 0, 0, 0]] * 3
    assert source.label(1).tolist() == [[1, 2, 2, 1, 1], [0, 2, 2, 0, 0], [0, 2, 2, 0, 0]]
    # the object has left the picture
    assert not source.label(2).any() and not source.missing
    for frame in (1, 2):
        (tmp_path / f"images/frame_{frame:06d}.png").unlink()
    missing = open_source(tmp_path, "all").missing
    assert len(missing) == 1 and "frame_000001" in missing[0]


def test_cvat_frames_that_are_numbered_from_one_are_refused(tmp_path):
    for frame in (1, 2, 3):
        photo(tmp_path / f"images/frame_{frame:04d}.png", (3, 5))
    text(
        tmp_path / "annotations.xml",
        VIDEO.replace("<original_size>", "<stop_frame>2</stop_frame><original_size>"),
    )
    with pytest.raises(
        UserError, match=r"frame_0003.png is numbered above the video's last frame, 2 .*number photos"
    ):
        open_source(tmp_path, "all")


# --- Label Studio


def brush(values, *, word=8):
    """The brush format written as plainly as it can be: runs where a value repeats, else single literals."""
    bits = f"{len(values):032b}{word - 1:05b}" + "".join(f"{width - 1:04b}" for width in (2, 3, 4, 10))
    position = 0
    while position < len(values):
        end = position + 1
        while end < len(values) and values[end] == values[position] and end - position < 1024:
            end += 1
        kind = 0 if end - position <= 4 else 3
        width = (2, 3, 4, 10)[kind]
        bits += f"1{kind:02b}{end - position - 1:0{width}b}{values[position]:0{word}b}"
        position = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def task(*results, image="/data/upload/3/0a1b2c3d-a%20b.jpg"):
    return [
        {
            "id": 1,
            "data": {"image": image},
            "annotations": [{"was_cancelled": False, "result": list(results)}],
        }
    ]


def region(kind, label, size=(2, 4), **value):
    return {"type": kind, "original_height": size[0], "original_width": size[1], "image_rotation": 0,
            "value": {kind: [label], **value}}  # fmt: skip


def test_label_studio_regions(tmp_path):
    photo(tmp_path / "images/a b.jpg", (2, 4))
    alpha = np.array([[0, 0, 0, 255], [0, 0, 0, 9]], np.uint8)
    rgba = np.stack([np.full_like(alpha, 7)] * 3 + [alpha], axis=-1)
    write(tmp_path / "export.json", task(
        {"type": "choices", "value": {"choices": ["indoors"]}},
        region("polygonlabels", "dog", points=[[0, 0], [50, 0], [50, 50], [0, 50]]),
        region("rectanglelabels", "cat", x=0, y=50, width=25, height=50, rotation=0),
        region("brushlabels", "fox", format="rle", rle=brush(rgba.ravel().tolist())),
    ))  # fmt: skip
    assert recognise(tmp_path) == "label-studio"
    source = open_source(tmp_path, "all")
    assert source.classes == ("background", "cat", "dog", "fox")
    # as the photo is called on disk, which is what a list names
    assert source.name(0) == "a b"
    assert source.label(0).tolist() == [[2, 2, 0, 3], [1, 0, 0, 3]]


def test_label_studio_shapes_and_labels_apart(tmp_path):
    photo(tmp_path / "a.jpg", (2, 4))
    shared = {"original_height": 2, "original_width": 4, "to_name": "image"}
    box = {"x": 0, "y": 0, "width": 50, "height": 100}
    results = [
        {"id": "r", "type": "rectangle", "value": box, **shared},
        {"id": "r", "type": "labels", "value": {**box, "labels": ["cat"]}, **shared},
    ]
    tasks = task(*results)
    # the first of two photos is not the one that was drawn on
    tasks[0]["data"] = {"thumb": "small.jpg", "image": "a.jpg"}
    write(tmp_path / "export.json", tasks)
    assert label(tmp_path) == [[1, 1, 0, 0]] * 2
    tasks[0]["data"] = {"left": "a.jpg", "right": "b.jpg"}
    write(tmp_path / "export.json", tasks)
    with pytest.raises(UserError, match="task 1 shows left and right"):
        label(tmp_path)


def test_label_studio_without_regions_is_background(tmp_path):
    photo(tmp_path / "0a1b2c3d-a b.jpg", (2, 4))
    write(tmp_path / "export.json", task())
    assert label(tmp_path, names=("background", "cat")) == [[0] * 4] * 2


def test_label_studio_ground_truth_counts_before_what_others_drew(tmp_path):
    photo(tmp_path / "0a1b2c3d-a b.jpg", (2, 4))
    drawn = region("rectanglelabels", "cat", x=0, y=0, width=50, height=100)
    tasks = task()
    tasks[0]["annotations"] += [{"ground_truth": True, "result": [drawn]}, {"result": []}]
    write(tmp_path / "export.json", tasks)
    assert label(tmp_path) == [[1, 1, 0, 0]] * 2


def test_label_studio_brush_literals_and_faults():
    # header: 8 values, 8-bit words, lengths of 4 bits; one literal block of 8
    bits = (
        f"{8:032b}{7:05b}{3:04b}{3:04b}{3:04b}{3:04b}"
        + "000"
        + "0111"
        + "".join(f"{v:08b}" for v in (1, 1, 1, 0, 2, 2, 2, 5))
    )
    bits += "0" * (-len(bits) % 8)
    codes = [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]
    assert brush_mask(codes, (1, 2)).tolist() == [[False, True]]
    with pytest.raises(UserError, match="8 values for 1 x 3 pixels"):
        brush_mask(codes, (1, 3))
    for cut in range(4, len(codes)):
        with pytest.raises(UserError, match="a brush mask"):
            brush_mask(codes[:cut], (1, 2))


def test_label_studio_missing_photo_is_named(tmp_path):
    write(tmp_path / "export.json", task(region("polygonlabels", "dog", points=[[0, 0], [50, 0], [0, 50]])))
    assert open_source(tmp_path, "all").missing[0].startswith(f"photo {tmp_path / 'images'}")


# --- Supervisely


def test_supervisely_bitmap_and_polygon(tmp_path):
    photo(tmp_path / "ds/img/a.jpg", (4, 6))
    # the border pixels of a polygon belong to it, and those of a hole to the hole
    polygon = {
        "classTitle": "cat",
        "geometryType": "polygon",
        "points": {
            "exterior": [[0, 0], [4, 0], [4, 3], [0, 3]],
            "interior": [[[2, 1], [3, 1], [3, 2], [2, 2]]],
        },
    }
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8))
    picture.putpalette([0, 0, 0, 255, 255, 255])
    png = io.BytesIO()
    picture.save(png, "PNG", transparency=0)
    data = base64.b64encode(zlib.compress(png.getvalue())).decode()
    bitmap = {"classTitle": "dog", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [4, 2]}}
    write(tmp_path / "meta.json", {"classes": [{"title": "cat"}, {"title": "dog"}], "tags": []})
    write(tmp_path / "ds/ann/a.jpg.json", {"size": {"height": 4, "width": 6}, "objects": [polygon, bitmap]})
    assert recognise(tmp_path) == "supervisely" and split_names(tmp_path) == ("train", "val")
    source = open_source(tmp_path, "all")
    assert source.name(0) == "ds/a" and source.classes == ("background", "cat", "dog")
    assert source.label(0).tolist() == [
        [1, 1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 2],
        [1, 1, 1, 1, 2, 0],
    ]
    (tmp_path / "ds/img/a.jpg").unlink()
    assert open_source(tmp_path, "all").missing[0].startswith(f"photo {tmp_path / 'ds/img/a.jpg'}, which ")


# --- annotations that paint nothing


WHOLE = [[0, 0, 5, 0, 5, 4, 0, 4]]


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ([], "it has no segmentation"),
        ([[]], "it has no points"),
        (None, "it has no segmentation"),
        ([[1, 1, 3, 3]], "it has fewer than 3 points"),
        ([[1, 1, 3, 3, 5]], "a coordinate is missing or no number"),
        ([[1, 1, 3, 3, float("nan"), 0]], "a coordinate is missing or no number"),
        ([[1, 1, 3, 3, "x", None]], "a coordinate is missing or no number"),
        ({"size": [4, 5]}, "its run lengths are missing"),
    ],
)
def test_coco_annotations_that_paint_nothing_are_listed(tmp_path, stored, said):
    photo(tmp_path / "train/a.jpg", (4, 5))
    write(tmp_path / "train.json", coco((3, WHOLE), (1, stored)))
    source = open_source(tmp_path, "train")
    assert source.bad == (f"annotation 1 of a.jpg in {tmp_path / 'train.json'}: {said}",)
    assert set(np.ravel(source.label(0))) == {2}
    with pytest.warns(
        UserWarning, match=f"split 'train': 1 annotations paint nothing, first: annotation 1 .*{said}"
    ):
        open_split(DataRecipe(root=tmp_path), "train")
    with pytest.raises(UserError, match=f"1 annotations paint nothing.*{said}; fix: correct or delete them"):
        open_split(DataRecipe(root=tmp_path, on_bad="error"), "train")
    checked = check_data(tmp_path, Expected(train="train"), workers=1)
    (finding,) = (finding for finding in checked.findings if finding.code == "annotation-bad")
    assert (finding.severity, finding.files) == ("warning", source.bad)
    # alone it leaves nothing to learn
    write(tmp_path / "train.json", coco((1, stored)))
    with pytest.raises(
        UserError, match=rf"train\.json: has no usable outline \(1 annotations, first: .*{said}"
    ):
        open_source(tmp_path, "train")


def test_coco_boxes_alone_and_flat_lists(tmp_path):
    photo(tmp_path / "train/a.jpg", (4, 5))
    content = coco((3, WHOLE[0]))
    write(tmp_path / "train.json", content)
    assert set(np.ravel(label(tmp_path, "train"))) == {2}
    content["annotations"][0] = {"id": 901, "image_id": 7, "category_id": 3, "bbox": [0, 0, 2, 2]}
    write(tmp_path / "train.json", content)
    with pytest.raises(
        UserError, match=r"train\.json: has boxes, no segmentation \(1 annotations, first: annotation 901"
    ):
        open_source(tmp_path, "train")


def test_coco_names_that_are_numbers_and_missing_sizes(tmp_path):
    photo(tmp_path / "train/a.jpg", (4, 5))
    content = coco((3, WHOLE), categories=((1, 17), (3, 2.5)))
    del content["images"][0]["height"]
    write(tmp_path / "train.json", content)
    source = open_source(tmp_path, "train")
    assert source.classes == ("background", "17", "2.5") and source.label(0).shape == (4, 5)
    write(tmp_path / "train.json", coco((3, WHOLE), categories=((1, None), (3, "a"))))
    with pytest.raises(UserError, match=r"train\.json: category 1 has no name"):
        open_source(tmp_path, "train")
    write(tmp_path / "train.json", coco((3, {"size": [5, 4], "counts": [0, 20]})))
    with pytest.raises(
        UserError, match=r"train\.json: annotation 0: run lengths for 4x5 pixels on a photo of 5x4"
    ):
        label(tmp_path, "train")


def test_labelme_dialects(tmp_path):
    photo(tmp_path / "a.jpg", (4, 4))
    corners = [[1, 0], [2, 0], [2, 2], [1, 2]]
    png = io.BytesIO()
    Image.fromarray(np.full((3, 3), 255, np.uint8)).save(png, "PNG")
    content = labelme(
        ("狗", corners, "rectangle"),
        ("dog", [[-2, 2], [0, 4]], "mask"),
        (None, corners, "polygon"),
        (7, corners, None),
    )
    content["shapes"][1]["mask"] = base64.b64encode(png.getvalue()).decode()
    content["shapes"] += [
        {"label": "dog", "points": points} for points in ([], [[1, 1], [2, 2]], [[1], [2, 2], [3, 3]])
    ]
    content |= {"imageHeight": None, "imageWidth": None}
    (tmp_path / "a.json").write_bytes(json.dumps(content, ensure_ascii=False).encode("gbk"))
    source = open_source(tmp_path, "all")
    assert source.classes == ("background", "7", "dog", "狗")
    # of the mask of 3 x 3 that begins 2 to the left one column is on the photo
    assert source.label(0).tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [2, 0, 0, 0], [2, 0, 0, 0]]
    faults = ("no label", "no points", "fewer than 3 points", "a coordinate is missing")
    assert [fault in text for fault, text in zip(faults, source.bad, strict=True)] == [True] * 4
    assert source.bad[1].startswith(f"shape 5 (dog) in {tmp_path / 'a.json'}: ")


def test_labelme_lines_have_the_width_that_is_stated(tmp_path):
    photo(tmp_path / "a.jpg", (4, 6))
    strip = ("cat", [[0, 1], [4, 1], [4, 4]], "linestrip")
    write(tmp_path / "a.json", labelme(strip, ("dog", [[0, 4], [2, 4]], "line"), size=(4, 6)))
    with pytest.raises(
        UserError, match=r"a\.json: shape 1 \(cat\): .*'linestrip' has no area; fix: .*data\.line_width"
    ):
        label(tmp_path)
    # two wide about y = 1 and x = 4, and about y = 4; no pixel's centre is in the round of the bend alone
    wide = open_source(tmp_path, "all", Storage(line_width=2)).label(0)
    assert wide.tolist() == [
        [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0], [2, 2, 0, 1, 1, 0],
    ]  # fmt: skip
    lines = Expected(Storage(line_width=2), train="all")
    assert (
        check_data(tmp_path, lines, workers=1).counts[0].pixels.tolist() == np.bincount(wide.ravel()).tolist()
    )
    loaded = open_split(DataRecipe(root=tmp_path, line_width=0.75), "all").load(0)[1]
    assert not loaded.any()
    with pytest.raises(UserError, match=r"line_width=2.0: data in the layout images"):
        open_source(tmp_path, "all", Storage(layout="images", line_width=2.0))


def test_labelme_photos_inside_the_annotation(tmp_path):
    pixels = photo(tmp_path / "old.png", (4, 6))
    content = labelme(("cat", [[0, 0], [3, 0], [3, 4], [0, 4]], "polygon"), size=(4, 6), image="gone.png")
    content["imageData"] = base64.b64encode((tmp_path / "old.png").read_bytes()).decode()
    for root, sizes in ((tmp_path / "a", {}), (tmp_path / "b", {"imageHeight": None, "imageWidth": None})):
        write(root / "x.json", content | sizes)
        source = open_source(root, "all")
        assert not source.missing and source.files(0)[0] == f"{root / 'x.json'}:imageData"
        np.testing.assert_array_equal(source.photo(0), pixels)
        assert source.label(0).tolist() == [[1, 1, 1, 0, 0, 0]] * 4
        convert(root, root / "out", split="all")
        with Image.open(root / "out/images/all/x.png") as image:
            np.testing.assert_array_equal(np.array(image), pixels)
    assert check_data(tmp_path / "a", Expected(train="all"), workers=1).data.items[0].photo.error is None
    write(tmp_path / "a/x.json", content | {"imageData": "AAAA"})
    with pytest.raises(UserError, match=r"x\.json:imageData: not a picture"):
        open_source(tmp_path / "a", "all").photo(0)


@pytest.mark.parametrize(
    "change",
    [
        {"imageHeight": -4}, {"imageHeight": 10**30}, {"imageHeight": 2**31}, {"imageWidth": float("inf")},
        {"imageWidth": "wide"}, {"imageWidth": [4]}, {"shapes": [True]}, {"shapes": 5}, {"imagePath": 5},
        {"imagePath": "a" * 5000}, {"imagePath": "a\0.jpg"}, {"imagePath": None},
        {"shapes": [{"label": "cat", "shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "AAAA"}]},
        {"shapes": [{"label": "cat", "points": [[1e300, 0], [1, 1], [float("inf"), 2]], "shape_type": "circle"}]},
    ],
)  # fmt: skip
def test_values_of_another_kind_end_in_one_sentence(tmp_path, change):
    photo(tmp_path / "a.jpg", (4, 4))
    write(tmp_path / "a.json", labelme(("cat", [[0, 0], [4, 0], [4, 4]], "polygon")) | change)
    source = None
    try:
        source = open_source(tmp_path, "all")
        source.label(0)
    except (UserError, IndexError) as error:
        # a photo that is not there is listed
        assert "a.json" in str(error) or "a.json" in source.missing[0]
    else:
        assert "a.json" in source.bad[0]


def test_the_other_tools_list_what_paints_nothing(tmp_path):
    """CVAT, Supervisely and Label Studio: one good shape, and one without points or label."""
    photo(tmp_path / "cvat/images/a.png", (3, 5))
    empty = '<polygon label="cat" points="" z_order="9"></polygon><polygon label="" points="0,0;1,0;1,1"></polygon>'
    text(tmp_path / "cvat/annotations.xml", CVAT.format(subset="", more=empty))
    photo(tmp_path / "sly/ds/img/a.jpg", (4, 6))
    shapes = [{"classTitle": "cat", "geometryType": "polygon", "points": {"exterior": ring, "interior": []}}
              for ring in ([[0, 0], [4, 0], [4, 3]], [[0, 0], [4, 0]], [])]  # fmt: skip
    write(tmp_path / "sly/meta.json", {"classes": [{"title": "cat"}]})
    write(tmp_path / "sly/ds/ann/a.jpg.json", {"size": {"height": 4, "width": 6}, "objects": shapes})
    photo(tmp_path / "ls/a b.jpg", (2, 4))
    good = region("polygonlabels", "dog", points=[[0, 0], [50, 0], [50, 50]])
    nameless = {**good, "value": {"points": good["value"]["points"]}}
    write(tmp_path / "ls/a.json", task(good, nameless, region("polygonlabels", "dog", points=[])))
    for name in ("cvat", "sly", "ls"):
        source = open_source(tmp_path / name, "all")
        assert len(source.bad) == 2 and all("/a" in text or " of a" in text for text in source.bad)
        assert set(np.ravel(source.label(0))) > {0}


# --- YOLO segmentation


SQUARE = "0.25 0.5 1 0.5 1 1 0.25 1"


def yolo(root, *lines, names="[cat, dog]", form="images/{}"):
    for split in ("train", "val"):
        photo(root / form.format(split) / "a.jpg", (2, 4))
        where = (root / form.format(split)).as_posix().replace("images", "labels")
        text(root / where / "a.txt", "\n".join(lines))
    prefix = "../" if form.startswith("{}") else ""
    places = "".join(f"{split}: {prefix}{form.format(split)}\n" for split in ("train", "val"))
    text(root / "data.yaml", f"{places}names: {names}\n")


@pytest.mark.parametrize("form", ["images/{}", "{}/images"])
@pytest.mark.parametrize("names", ["[cat, dog]", "{1: dog, 0: cat}", "[5, dog]"])
def test_yolo_outlines_are_shares_of_the_photo(tmp_path, form, names):
    yolo(tmp_path, f"1 {SQUARE}", "0 0.5 0 1 0 1 1 0.5 1", names=names, form=form)
    assert recognise(tmp_path) == "yolo" and split_names(tmp_path) == ("train", "val")
    source = open_source(tmp_path, "train")
    assert source.classes == ("background", "5" if "5" in names else "cat", "dog") and source.name(0) == "a"
    # the smaller one lies on top
    assert source.label(0).tolist() == [[0, 0, 1, 1], [0, 2, 2, 2]]


def test_via_regions_whose_class_was_forgotten_take_no_other_attribute_for_it(tmp_path):
    SETS["via"](tmp_path)
    for file in tmp_path.rglob("*.json"):
        first, other = entries = list((content := json.loads(file.read_text())).values())
        first["regions"][0]["region_attributes"] = {"quality": "good"}
        other["regions"][0]["region_attributes"] = {"class": "dog", "quality": "bad"}
        assert len(entries) == len(content)
        text(file, json.dumps(content))
    found = open_source(tmp_path, "train")
    assert found.classes == ("background", "dog") and len(found.bad) == 1 and "no class" in found.bad[0]
    assert not found.label(0).any() and found.label(1).any()
    # one of any name is the class where it is the only one
    for file in tmp_path.rglob("*.json"):
        text(file, file.read_text().replace('"quality"', '"kind"').replace('"class": "dog", ', ""))
    assert open_source(tmp_path, "train").classes == ("background", "bad", "good")


def test_yolo_boxes_and_classes_that_are_not_listed(tmp_path):
    yolo(tmp_path, f"0 {SQUARE}", "1 0.5 0.5 0.1 0.1", f"7 {SQUARE}")
    source = open_source(tmp_path, "train")
    file = tmp_path / "labels/train/a.txt"
    assert source.bad == (f"line 2 (class 1) in {file}: it is a box, no outline",)
    assert source.stray == (f"line 3 (class 7) of {file}",)
    yolo(tmp_path, "1 0.5 0.5 0.1 0.1")
    with pytest.raises(UserError, match=r"data\.yaml: has boxes, no segmentation \(first: line 1"):
        open_source(tmp_path, "train")
    for wrong in ("1 0.5 0.5 0.1", "0.5 0 0 1 1 0 1", "cat 0 0 1 1 0 1", "1 0 0 1 1 nan 1"):
        yolo(tmp_path, wrong)
        with pytest.raises(UserError, match=r"a\.txt: line 1 is not a class's number and pairs of x and y"):
            open_source(tmp_path, "train")
    yolo(tmp_path, f"0 {SQUARE}", names="[cat, cat]")
    with pytest.raises(UserError, match=r"data\.yaml: a class is listed twice"):
        open_source(tmp_path, "train")


def test_yolo_outlines_in_pixels_are_no_shares(tmp_path):
    yolo(tmp_path, f"0 {SQUARE}", "1 0 0 1.000001 0 1 1", "1 0 0 40 0 40 40")
    source = open_source(tmp_path, "train")
    (told,) = source.bad
    assert told.startswith("line 3 (class 1) in ") and "no shares of the photo's sides, 0 to 1" in told
    yolo(tmp_path, "1 0 0 40 0 40 40")
    with pytest.raises(UserError, match=r"data.yaml: has no usable outline .first: line 1"):
        open_source(tmp_path, "train")


def test_yolo_files_without_a_partner(tmp_path):
    yolo(tmp_path, f"0 {SQUARE}")
    photo(tmp_path / "images/train/b.jpg", (2, 4))
    text(tmp_path / "labels/train/c.txt", f"0 {SQUARE}")
    source = open_source(tmp_path, "train")
    assert [source.name(index) for index in range(2)] == ["a", "b"] and not source.label(1).any()
    assert source.missing == (f"photo of {tmp_path / 'labels/train/c.txt'}",)
    with pytest.raises(UserError, match=r"data\.yaml: has no split 'test'; splits found: train, val"):
        open_source(tmp_path, "test")


# --- COCO panoptic


def test_panoptic_segments_are_semantic_labels(tmp_path):
    made = SETS["coco-panoptic"](tmp_path)
    path = tmp_path / "annotations/panoptic_train2017.json"
    content = json.loads(path.read_text())
    rgb = np.zeros((SIDE, SIDE, 3), np.uint8)
    rgb[1] = 188, 2, 0
    png = tmp_path / "annotations/panoptic_train2017/a.png"
    Image.fromarray(rgb).save(png)
    # void is ignored, and ids are compared as one type
    content["annotations"][0]["image_id"] = "0.0"
    write(path, content)
    label = open_source(tmp_path, "train").label(0)
    assert made.classes[label[1, 0]] == "background" and set(np.unique(label)) == {0, 255}
    rgb[0, 3] = 1, 0, 0
    Image.fromarray(rgb).save(png)
    with pytest.raises(
        UserError, match=r"panoptic_train2017/a\.png: id 1 at row 0, column 3 is none of its segments"
    ):
        open_source(tmp_path, "train").label(0)
    content["annotations"][0]["image_id"] = 55
    content["annotations"][1]["segments_info"][0]["category_id"] = 4
    write(path, content)
    source = open_source(tmp_path, "train")
    assert source.stray == (
        f"annotation a.png of {path}: image_id 55",
        f"segment 700 of b.png in {path}: category_id 4",
    )
    assert source.missing == ("annotation of a",)


# --- VIA


def test_via_shapes_in_a_project_and_in_a_table(tmp_path):
    shapes = [
        ({"name": "polygon", "all_points_x": [0, 4, 4, 0], "all_points_y": [0, 0, 1, 1]}, {"name": "dog"}),
        ({"name": "rect", "x": 1, "y": 0, "width": 1, "height": 2}, {"class": "cat", "colour": "grey"}),
        ({"name": "circle", "cx": 2, "cy": 2, "r": 0.8}, {"type": {"fox": True, "cat": False}}),
        ({"name": "ellipse", "cx": 0.5, "cy": 3, "rx": 1.2, "ry": 0.4, "theta": np.pi / 2}, {"label": 7}),
    ]
    regions = [{"shape_attributes": shape, "region_attributes": given} for shape, given in shapes]
    table = {"a.png1": {"filename": "a.png", "regions": dict(enumerate(regions))}}
    project = {
        "_via_settings": {},
        "_via_img_metadata": {"a.png1": {"filename": "a.png", "regions": regions}},
    }
    for name, content in (("one", table), ("two", project)):
        photo(tmp_path / name / "images/a.png", (4, 4))
        write(tmp_path / name / "via.json", content)
        assert recognise(tmp_path / name) == "via"
        source = open_source(tmp_path / name, "all")
        assert source.classes == ("background", "7", "cat", "dog", "fox")
        assert source.label(0).tolist() == [[3, 2, 3, 3], [0, 4, 4, 0], [1, 4, 4, 0], [1, 0, 0, 0]]


def test_via_regions_that_paint_nothing_and_names_twice(tmp_path):
    photo(tmp_path / "a.png", (4, 4))
    polygon = {"name": "polygon", "all_points_x": [0, 4, 4], "all_points_y": [0, 0, 1]}
    good = {"shape_attributes": polygon, "region_attributes": {"class": "dog"}}
    bad = [
        {**good, "region_attributes": {}},
        {**good, "shape_attributes": {**polygon, "all_points_x": [0, 4]}},
        {**good, "shape_attributes": {"name": "polygon", "all_points_x": [], "all_points_y": []}},
    ]
    write(tmp_path / "via.json", {"a": {"filename": "a.png", "regions": [good, *bad]}})
    assert [text.partition(": ")[2] for text in open_source(tmp_path, "all").bad] == [
        "it has no class", "a coordinate is missing or no number", "it has no points",
    ]  # fmt: skip
    write(tmp_path / "via.json", {"a": {"filename": "a.png", "regions": bad[:1]}})
    with pytest.raises(UserError, match=r"via\.json: no region has a class \(first: region 1 \(\) of a\.png"):
        open_source(tmp_path, "all")
    write(tmp_path / "via.json", {key: {"filename": "a.png", "regions": [good]} for key in "ab"})
    with pytest.raises(UserError, match=r"via\.json: two photos are called a\.png"):
        open_source(tmp_path, "all")
