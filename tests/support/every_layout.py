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
from deeplab.data.layouts.loveda import LOVEDA_CLASSES
from deeplab.data.layouts.suim import SUIM_CLASSES
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


def ade20k_full(root: Path) -> Made:
    text(root / "objects.txt", "wall\nfloor, flooring\nsky\n")
    for split, name in PAIRS:
        scene = (
            root
            / "images/ADE"
            / {"train": "training", "val": "validation"}[split]
            / f"urban/street/ADE_{name}"
        )
        picture(scene.with_name(f"{scene.name}.jpg"), name)
        colours(scene.with_name(f"{scene.name}_seg.png"), halves((0, 1, 7), (0, 3, 0)))
        colours(scene.with_name(f"{scene.name}_parts_1.png"), halves((0, 0, 0), (0, 2, 0)))
        text(scene.with_name(f"{scene.name}.json"), json.dumps({"annotation": {"object": []}}))
    return Made(("wall", "floor, flooring", "sky"), "wall", "sky")


def mapillary(root: Path) -> Made:
    kinds = [
        ("animal--bird", "Bird", True),
        ("void--car-mount", "Mount", False),
        ("nature--sky", "Sky", True),
    ]
    labels = [{"name": name, "readable": short, "evaluate": counts} for name, short, counts in kinds]
    text(root / "config_v2.0.json", json.dumps({"labels": labels, "version": "2.0"}))
    text(root / "config_v1.2.json", json.dumps({"labels": labels[::2], "version": "1.2"}))
    for split, name in PAIRS:
        folder = root / {"train": "training", "val": "validation"}[split]
        picture(folder / f"images/{name}.jpg", name)
        grey(folder / f"v2.0/labels/{name}.png", halves(0, 2))
        grey(folder / f"v1.2/labels/{name}.png", halves(0, 1))
    return Made(("Bird", "Sky"), "Bird", "Sky")


def loveda(root: Path) -> Made:
    for (split, name), area in zip(PAIRS, ("Urban", "Rural") * 2, strict=True):
        folder = root / split.capitalize() / area
        picture(folder / f"images_png/{name}.png", name)
        grey(folder / f"masks_png/{name}.png", halves(1, 7))
    return Made(LOVEDA_CLASSES, "background", "agriculture")


def suim(root: Path) -> Made:
    for _, name in PAIRS:
        picture(root / f"train_val/images/{name}.jpg", name)
        colours(root / f"train_val/masks/{name}.bmp", halves((0, 0, 0), (255, 255, 0)))
    lists(root)
    return Made(SUIM_CLASSES, "background", "fish and vertebrates")


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


def coco_panoptic(root: Path) -> Made:
    kinds = [(2, "background", 0), (3, "cat", 1), (9, "dog", 1)]
    categories = [{"id": number, "name": name, "isthing": thing} for number, name, thing in kinds]
    segments = [{"id": 700, "category_id": 2}, {"id": 70_000, "category_id": 9}]
    for split, names in NAMES.items():
        images = [{"id": i, "file_name": f"{name}.jpg"} for i, name in enumerate(names)]
        drawn = [
            {"image_id": i, "file_name": f"{name}.png", "segments_info": segments}
            for i, name in enumerate(names)
        ]
        content = {"images": images, "annotations": drawn, "categories": categories}
        text(root / f"annotations/panoptic_{split}2017.json", json.dumps(content))
        for name in names:
            picture(root / f"{split}2017/{name}.jpg", name)
            # 700 is 188 + 2 x 256, 70,000 is 112 + 17 x 256 + 65,536
            rgb = halves((188, 2, 0), (112, 17, 1))
            colours(root / f"annotations/panoptic_{split}2017/{name}.png", rgb)
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


def via(root: Path) -> Made:
    x, y = zip(*RIGHT, strict=True)
    shape = {"name": "polygon", "all_points_x": x, "all_points_y": y}
    region = {"shape_attributes": shape, "region_attributes": {"class": "dog"}}
    for split, names in NAMES.items():
        content = {
            f"{name}.jpg9": {"filename": f"{name}.jpg", "size": 9, "regions": [region]} for name in names
        }
        text(root / f"{split}/via_region_data.json", json.dumps(content))
        for name in names:
            picture(root / f"{split}/{name}.jpg", name)
    return Made(("background", "dog"), "background", "dog")


def yolo(root: Path) -> Made:
    shares = " ".join(f"{x / SIDE:g} {y / SIDE:g}" for x, y in RIGHT)
    for split, name in PAIRS:
        picture(root / f"images/{split}/{name}.jpg", name)
        text(root / f"labels/{split}/{name}.txt", f"1 {shares}\n")
    text(
        root / "data.yaml",
        "path: ../datasets/pets\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n",
    )
    return Made(OWN, "background", "dog")


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
        roboflow, ade20k_full, mapillary, loveda, suim, cvat_masks, coco, coco_panoptic, cvat, labelme, supervisely,
        label_studio, via, yolo, tfrecord, webdataset,
    )
}  # fmt: skip
