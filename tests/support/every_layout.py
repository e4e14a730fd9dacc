"""Writes a small sound data set in every layout: two photos a split, left half one class, right half another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab.data.layouts.ade20k import ADE20K_CLASSES
from deeplab.data.layouts.camvid import CAMVID_CLASSES
from deeplab.data.layouts.coco_stuff import COCO_STUFF_CLASSES
from deeplab.data.layouts.tar_shards import write_shards
from deeplab.data.layouts.tfrecord import write_split
from deeplab.data.opening import open_source
from deeplab.imaging.palettes import CITYSCAPES_CLASSES, VOC_CLASSES
from support.data_folders import colours, grey, photo, text

SIDE = 8
NAMES = {"train": ("a", "b"), "val": ("c", "d")}
PAIRS = [(split, name) for split, names in NAMES.items() for name in names]
OWN = ("background", "cat", "dog")


class Made(NamedTuple):
    """What a data set must be found to hold: its classes, and those of the left and the right half."""

    classes: tuple[str, ...]
    left: str
    right: str


def halves(left: Any, right: Any) -> np.ndarray:
    values = np.empty((SIDE, SIDE, *np.shape(left)), np.uint8)
    values[:, : SIDE // 2], values[:, SIDE // 2 :] = left, right
    return values


def picture(path: Path, name: str) -> None:
    photo(path, (SIDE, SIDE), seed=ord(name))


def lists(folder: Path) -> None:
    for split, names in NAMES.items():
        text(folder / f"{split}.txt", "\n".join(names) + "\n")


def own_classes(root: Path) -> Made:
    text(root / "classes.txt", "# mine\n" + "\n".join(OWN) + "\n")
    return Made(OWN, "background", "dog")


def images(root: Path) -> Made:
    for _, name in PAIRS:
        picture(root / f"images/{name}.jpg", name)
        grey(root / f"masks/{name}.png", halves(0, 2))
    lists(root)
    return own_classes(root)


def images_with_mask_in_the_name(root: Path) -> Made:
    for _, name in PAIRS:
        picture(root / f"image/sub/{name}.jpg", name)
        grey(root / f"mask/sub/{name}_label.png", halves(0, 2))
    lists(root)
    return own_classes(root)


def images_side_by_side(root: Path) -> Made:
    for split, name in PAIRS:
        picture(root / f"{split}/{name}.jpg", name)
        grey(root / f"{split}/{name}_mask.png", halves(0, 2))
    return own_classes(root)


def voc(root: Path) -> Made:
    for split, name in PAIRS:
        picture(root / f"JPEGImages/{name}.jpg", name)
        grey(root / f"SegmentationClassAug/{name}.png", halves(0, 15))
        # only val has the finer masks
        if split == "val":
            grey(root / f"SegmentationClass/{name}.png", halves(0, 15))
    lists(root / "ImageSets/Segmentation")
    (root / "ImageSets/Segmentation/train.txt").rename(root / "ImageSets/Segmentation/train_aug.txt")
    return Made(VOC_CLASSES, "background", "person")


def cityscapes(root: Path) -> Made:
    for split, name in PAIRS:
        stem = f"{split}/ulm/ulm_00000{ord(name) % 10}_000019"
        picture(root / f"leftImg8bit/{stem}_leftImg8bit.png", name)
        grey(root / f"gtFine/{stem}_gtFine_labelIds.png", halves(7, 26))
    return Made(CITYSCAPES_CLASSES, "road", "car")


def ade20k(root: Path) -> Made:
    for split, name in PAIRS:
        folder = {"train": "training", "val": "validation"}[split]
        picture(root / f"images/{folder}/ADE_{name}.jpg", name)
        grey(root / f"annotations/{folder}/ADE_{name}.png", halves(1, 150))
    return Made(ADE20K_CLASSES, "wall", "flag")


def camvid(root: Path) -> Made:
    for split, name in PAIRS:
        picture(root / f"{split}/{name}.png", name)
        grey(root / f"{split}annot/{name}.png", halves(0, 10))
    return Made(CAMVID_CLASSES, "sky", "bicyclist")


def coco_stuff(root: Path) -> Made:
    for split, name in PAIRS:
        picture(root / f"images/{split}2017/{name}.jpg", name)
        grey(root / f"stuffthingmaps/{split}2017/{name}.png", halves(0, 181))
    return Made(COCO_STUFF_CLASSES, "person", "wood")


def roboflow(root: Path) -> Made:
    for split, name in PAIRS:
        folder = root / {"train": "train", "val": "valid"}[split]
        picture(folder / f"{name}.jpg", name)
        grey(folder / f"{name}_mask.png", halves(0, 7))
        text(folder / "_classes.csv", "Pixel Value, Class\n0, background\n3, cat\n7, dog\n")
    return Made(OWN, "background", "dog")


def cvat_masks(root: Path) -> Made:
    text(root / "labelmap.txt", "cat:250,50,83::\ndog:0,0,9::\n")
    lists(root / "ImageSets/Segmentation")
    for _, name in PAIRS:
        picture(root / f"JPEGImages/{name}.jpg", name)
        colours(root / f"SegmentationClass/{name}.png", halves((0, 0, 0), (0, 0, 9)))
    return Made(OWN, "background", "dog")


RIGHT = [[4, 0], [8, 0], [8, 8], [4, 8]]


def coco(root: Path) -> Made:
    categories = [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]
    for split, names in NAMES.items():
        entries = [
            {"id": i, "file_name": f"{name}.jpg", "height": SIDE, "width": SIDE}
            for i, name in enumerate(names)
        ]
        ring = [np.ravel(RIGHT).tolist()]
        drawn = [{"image_id": i, "category_id": 9, "segmentation": ring} for i in range(len(names))]
        content = {"images": entries, "annotations": drawn, "categories": categories}
        text(root / f"annotations/instances_{split}.json", json.dumps(content))
        for name in names:
            picture(root / f"images/{split}/{name}.jpg", name)
    return Made(OWN, "background", "dog")


def cvat(root: Path) -> Made:
    points = ";".join(f"{x},{y}" for x, y in RIGHT)
    shape = f'<polygon label="dog" points="{points}" z_order="0"/>'
    labels = "".join(f"<label><name>{name}</name></label>" for name in OWN[1:])
    found = ""
    for split, name in PAIRS:
        picture(root / f"images/{split}/{name}.jpg", name)
        size = f'width="{SIDE}" height="{SIDE}"'
        found += f'<image id="0" name="{name}.jpg" subset="{split}" {size}>{shape}</image>'
    text(
        root / "annotations.xml", f"<annotations><meta><labels>{labels}</labels></meta>{found}</annotations>"
    )
    return Made(OWN, "background", "dog")


def labelme(root: Path) -> Made:
    shape = {"label": "dog", "points": RIGHT, "shape_type": "polygon"}
    for split, name in PAIRS:
        picture(root / f"{split}/{name}.jpg", name)
        content = {"imagePath": f"{name}.jpg", "imageHeight": SIDE, "imageWidth": SIDE, "shapes": [shape]}
        text(root / f"{split}/{name}.json", json.dumps(content))
    text(root / "labels.txt", "__ignore__\n_background_\ncat\ndog\n")
    return Made(OWN, "background", "dog")


def supervisely(root: Path) -> Made:
    text(root / "meta.json", json.dumps({"classes": [{"title": name} for name in OWN[1:]]}))
    # Supervisely's corners are pixels, and theirs belong to the shape
    corners = {"exterior": [[4, 0], [7, 7]], "interior": []}
    drawn = {"classTitle": "dog", "geometryType": "rectangle", "points": corners}
    for split, name in PAIRS:
        picture(root / f"{split}/img/{name}.jpg", name)
        content = {"size": {"height": SIDE, "width": SIDE}, "objects": [drawn]}
        text(root / f"{split}/ann/{name}.jpg.json", json.dumps(content))
    return Made(OWN, "background", "dog")


def label_studio(root: Path) -> Made:
    percent = [[100 * x / SIDE, 100 * y / SIDE] for x, y in RIGHT]
    value = {"points": percent, "polygonlabels": ["dog"]}
    region = {"type": "polygonlabels", "value": value, "original_width": SIDE, "original_height": SIDE}
    tasks = []
    for _, name in PAIRS:
        picture(root / f"images/{name}.jpg", name)
        tasks.append({"data": {"image": f"/data/upload/{name}.jpg"}, "annotations": [{"result": [region]}]})
    text(root / "export.json", json.dumps(tasks))
    lists(root)
    return Made(("background", "dog"), "background", "dog")


def tfrecord(root: Path) -> Made:
    made = images(root.parent / "plain")
    for split in NAMES:
        write_split(open_source(root.parent / "plain", split), root, split, shards=2)
    return made


def webdataset(root: Path) -> Made:
    made = images(root.parent / "plain")
    for split in NAMES:
        write_shards(open_source(root.parent / "plain", split), root, split)
    return made


# by name of the layout; a second word after it for another form of the same; those with masks as pictures first
SETS: dict[str, Callable[[Path], Made]] = {
    make.__name__.replace("images_", "images ").replace("_", "-"): make
    for make in (
        images, images_with_mask_in_the_name, images_side_by_side, voc, cityscapes, ade20k, camvid, coco_stuff,
        roboflow, cvat_masks, coco, cvat, labelme, supervisely, label_studio, tfrecord, webdataset,
    )
}  # fmt: skip
