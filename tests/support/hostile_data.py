"""Small data sets and pictures in every form that is read, of which a part may be changed before it is written."""

from __future__ import annotations

import base64
import io
import json
import random
import tempfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab.data.decoded import DecodedFiles
from deeplab.data.layouts import recognise
from deeplab.data.opening import open_source, split_names
from deeplab.data.source import check_sample
from deeplab.data.storage import Storage
from deeplab.data.teacher_maps import CLASSES_NAME, Grid, TeacherMaps, map_path, write_classes, write_map
from deeplab.evaluation.report.files import COUNTS, read_counts
from deeplab.imaging.photos import read_photo
from deeplab.system.reading import foreign
from support.data_folders import photo
from support.every_layout import OWN, SETS, SIDE, halves

Mutate = Callable[[bytes], bytes]
Make = Callable[[Path, Mutate], Path]


@lru_cache(maxsize=64)
def sound(layout: str) -> dict[str, bytes]:
    """The files of a sound data set of that layout, by path."""
    with tempfile.TemporaryDirectory() as inside:
        root = Path(inside) / "set"
        root.mkdir()
        (RICH.get(layout) or SETS[layout])(root)
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }


def data_set(layout: str, *endings: str) -> Make:
    """A maker of that layout, of which one of the files with these endings is changed."""

    def make(folder: Path, mutate: Mutate) -> Path:
        root = folder / "set"
        chosen = random.choice([name for name in sound(layout) if name.endswith(endings)])
        for name, content in sound(layout).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(mutate(content) if name == chosen else content)
        return root

    return make


def read_data_set(layout: str) -> Callable[[Path], object]:
    """Asks a data set for all that training asks, whatever it is recognised as, and as what it was made as."""

    def read(root: Path) -> None:
        with foreign(root):
            recognise(root)
        name = layout.partition(" ")[0]
        for split in split_names(root, layout=name)[:3]:
            source = open_source(root, split, Storage(layout=name))
            for index in range(min(len(source), 3)):
                check_sample(source, index, image=source.photo(index), label=source.label(index))

    return read


def encoded(array: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, format=kind, **options)
    return file.getvalue()


SHAPE = (8, 10)


def seen() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def cover() -> np.ndarray:
    values = np.zeros((3, 4), np.uint8)
    values[1:, 1:] = 255
    return values


def photos(root: Path, *names: str) -> None:
    for name in names:
        photo(root / name, SHAPE, seed=len(name))


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def coco(root: Path) -> None:
    photos(root, "images/a.png", "images/b.png")
    images = [
        {"id": number, "file_name": f"{name}.png", "height": SHAPE[0], "width": SHAPE[1]}
        for number, name in enumerate("ab", 1)
    ]
    drawn = [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]],
            "bbox": [1, 1, 5, 5],
        },
        {"id": 2, "image_id": 1, "category_id": 2, "segmentation": {"size": [8, 10], "counts": [10, 20, 50]}},
        {
            "id": 3,
            "image_id": 2,
            "category_id": 2,
            "segmentation": {"size": [8, 10], "counts": "02208002800"},
        },
    ]
    kinds = [{"id": 1, "name": "cat", "supercategory": "x"}, {"id": 2, "name": "dog"}]
    write_json(
        root / "annotations/instances_default.json",
        {"images": images, "categories": kinds, "annotations": drawn[:2]},
    )


def cvat(root: Path) -> None:
    photos(root, "images/a.png", "images/b.png")
    labels = "".join(f"<label><name>{name}</name></label>" for name in OWN[1:])
    shapes = (
        '<polygon label="cat" z_order="0" points="1.0,1.0;6.0,1.0;6.0,6.0"/>'
        '<mask label="dog" rle="2,4,2" left="1" top="1" width="4" height="2" z_order="1"/>'
        '<box label="dog" xtl="1" ytl="1" xbr="4" ybr="5" rotation="10" z_order="2"/>'
        '<ellipse label="cat" cx="5" cy="4" rx="2" ry="1" z_order="3"/><tag label="x"/>'
    )
    (root / "annotations.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?><annotations><meta><job><labels>{labels}</labels></job></meta>\n'
        f'<image id="0" name="a.png" subset="train" width="10" height="8">{shapes}</image>\n'
        '<image id="1" name="b.png" subset="val" width="10" height="8"></image></annotations>'
    )


def cvat_tracks(root: Path) -> None:
    photos(root, "images/frame_000000.png", "images/frame_000001.png")
    labels = "".join(f"<label><name>{name}</name></label>" for name in OWN[1:])
    shapes = "".join(
        f'<polygon frame="{frame}" outside="{frame // 2}" z_order="0" points="1,1;6,1;6,6"/>'
        for frame in range(3)
    )
    (root / "annotations.xml").write_text(
        "<annotations><meta><task><original_size><width>10</width><height>8</height></original_size>"
        f'<labels>{labels}</labels></task></meta><track id="0" label="cat">{shapes}</track></annotations>'
    )


def labelme(root: Path) -> None:
    photos(root, "a.png")
    mask = base64.b64encode(encoded(cover(), "PNG")).decode()
    shapes = [
        {"label": "cat", "points": [[1, 1], [6, 1], [6, 6]], "shape_type": "polygon"},
        {"label": "dog", "points": [[1, 1], [6, 6]], "shape_type": "rectangle"},
        {"label": "dog", "points": [[4, 4], [6, 6]], "shape_type": "circle"},
        {"label": "cat", "points": [[1, 1], [5, 4]], "shape_type": "mask", "mask": mask},
    ]
    content = {"imagePath": "a.png", "imageData": None, "imageHeight": 8, "imageWidth": 10, "shapes": shapes}
    write_json(root / "a.json", content)
    inside = base64.b64encode(encoded(seen(), "JPEG")).decode()
    write_json(root / "b.json", {**content, "imagePath": "b.jpg", "imageData": inside})


def supervisely(root: Path) -> None:
    photos(root, "d/img/a.png")
    write_json(root / "meta.json", {"classes": [{"title": name} for name in OWN[1:]]})
    bitmap = base64.b64encode(zlib.compress(encoded(cover(), "PNG"))).decode()
    objects = [
        {"classTitle": "cat", "geometryType": "bitmap", "bitmap": {"data": bitmap, "origin": [2, 2]}},
        {
            "classTitle": "cat",
            "geometryType": "polygon",
            "points": {"exterior": [[1, 1], [6, 1], [6, 6]], "interior": [[[2, 2], [3, 2], [3, 3]]]},
        },
        {"classTitle": "dog", "geometryType": "rectangle", "points": {"exterior": [[1, 1], [3, 3]]}},
    ]
    write_json(root / "d/ann/a.png.json", {"size": {"height": 8, "width": 10}, "objects": objects})


def label_studio(root: Path) -> None:
    photos(root, "images/a.png")
    half = {"x": 10, "y": 10, "width": 50, "height": 40, "rotation": 10}
    values = [
        {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["cat"]},
        {**half, "rectanglelabels": ["dog"]},
        {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "ellipselabels": ["cat"]},
        {"rle": brush(), "brushlabels": ["dog"]},
    ]
    regions = [
        {
            "type": list(value)[-1],
            "value": value,
            "original_width": 10,
            "original_height": 8,
            "id": str(number),
        }
        for number, value in enumerate(values)
    ]
    task = {"id": 1, "data": {"image": "/data/upload/1/a.png"}, "annotations": [{"result": regions}]}
    write_json(root / "export.json", [task])


def brush() -> list[int]:
    """A mask of 8 x 10 in Label Studio's code: one run of nothing."""
    bits = (
        f"{4 * 80:032b}{7:05b}{2:04b}{4:04b}{8:04b}{15:04b}" + "1" + "11" + f"{4 * 80 - 1:016b}" + f"{0:08b}"
    )
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def via(root: Path) -> None:
    photos(root, "a.png")
    shapes: list[dict[str, Any]] = [
        {"name": "polygon", "all_points_x": [1, 6, 6], "all_points_y": [1, 1, 6]},
        {"name": "rect", "x": 1, "y": 1, "width": 3, "height": 3},
        {"name": "circle", "cx": 4, "cy": 4, "r": 2},
        {"name": "ellipse", "cx": 4, "cy": 4, "rx": 2, "ry": 1, "theta": 0.5},
    ]
    regions = [{"shape_attributes": shape, "region_attributes": {"class": "cat"}} for shape in shapes]
    write_json(root / "via.json", {"a.png9": {"filename": "a.png", "size": 9, "regions": regions}})


def cityscapes_outlines(root: Path) -> None:
    photos(root, "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png")
    objects = [
        {"label": "car", "polygon": [[1, 1], [6, 1], [6, 6]]},
        {"label": "cargroup", "polygon": [[1, 1], [4, 1], [4, 4]]},
    ]
    write_json(
        root / "gtFine/train/ulm/ulm_000000_000019_gtFine_polygons.json",
        {"imgHeight": 8, "imgWidth": 10, "objects": objects},
    )


def deep_masks(root: Path) -> None:
    """Index masks of 16 bits, with a palette, and grey."""
    for name in "abc":
        photo(root / f"images/{name}.png", (SIDE, SIDE))
    (root / "masks").mkdir(parents=True)
    values = halves(0, 2)
    Image.fromarray(values.astype(np.uint16)).save(root / "masks/a.png")
    indexed = Image.fromarray(values)
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    indexed.save(root / "masks/b.png")
    Image.fromarray(values).save(root / "masks/c.png")
    (root / "classes.txt").write_text("\n".join(OWN))
    (root / "train.txt").write_text("a\nb\nc\n")


# more of each tool's shapes than `support.every_layout` has
RICH: dict[str, Callable[[Path], object]] = {
    "coco": coco, "cvat": cvat, "cvat tracks": cvat_tracks, "labelme": labelme, "supervisely": supervisely,
    "label-studio": label_studio, "via": via, "cityscapes outlines": cityscapes_outlines, "images": deep_masks,
}  # fmt: skip


def picture_file(kind: str, **options: Any) -> Make:
    def make(folder: Path, mutate: Mutate) -> Path:
        path = folder / f"photo.{kind.lower()}"
        path.write_bytes(mutate(encoded(seen(), kind, **options)))
        return path

    return make


def wide_photo(folder: Path, mutate: Mutate) -> Path:
    path = folder / "photo.png"
    path.write_bytes(mutate(encoded(np.arange(80, dtype=np.uint16).reshape(SHAPE) * 800, "PNG")))
    return path


def animation(folder: Path, mutate: Mutate) -> Path:
    file = io.BytesIO()
    frames = [Image.fromarray(seen() // divisor) for divisor in (1, 2, 3)]
    frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:])
    path = folder / "photo.gif"
    path.write_bytes(mutate(file.getvalue()))
    return path


def teacher(folder: Path, mutate: Mutate) -> Path:
    root, shown = folder / "maps", folder / "photos" / "a.png"
    photo(shown, SHAPE)
    root.mkdir()
    write_classes(root, OWN)
    place = map_path(root, str(shown))
    write_map(place, np.full((3, 4, 5), 1 / 3))
    changed = place if random.random() < 0.7 else root / CLASSES_NAME
    changed.write_bytes(mutate(changed.read_bytes()))
    return root


def read_teacher(root: Path) -> object:
    maps = TeacherMaps([root], OWN, Grid(4))
    return maps.of(str(root.parent / "photos/a.png")).cut(
        np.zeros((9, 9), np.uint8), size=(16, 20), offset=(1, 2), flip=True
    )


def decoded(folder: Path, mutate: Mutate) -> Path:
    for name in ("a.png", "m.png"):
        photo(folder / name, SHAPE)
    DecodedFiles(folder / "kept").fetch(sides(folder), lambda: pair_of())
    path = random.choice(sorted((folder / "kept").iterdir()))
    path.write_bytes(mutate(path.read_bytes()))
    return folder / "kept"


def sides(folder: Path) -> tuple[str, str]:
    return str(folder / "a.png"), str(folder / "m.png")


def pair_of() -> tuple[np.ndarray, np.ndarray]:
    return seen(), np.zeros(SHAPE, np.uint8)


def read_decoded(kept: Path) -> object:
    image, label = DecodedFiles(kept).fetch(sides(kept.parent), pair_of)
    assert image.shape == (*SHAPE, 3) and label.shape == SHAPE, (image.shape, label.shape)
    return int(image.sum()) + int(label.sum())


def counts(folder: Path, mutate: Mutate) -> Path:
    file = io.BytesIO()
    np.savez_compressed(
        file, names=np.array(["a", "b"]), classes=np.array(OWN), counts=np.arange(18).reshape(2, 3, len(OWN))
    )
    path = folder / COUNTS
    path.write_bytes(mutate(file.getvalue()))
    return path


def read_counts_file(path: Path) -> object:
    return read_counts(path, names=["a", "b"], classes=OWN)


# by name what is made, read, and whether it is text
TARGETS: dict[str, tuple[Make, Callable[[Path], object], bool]] = {
    "coco": (data_set("coco", ".json"), read_data_set("coco"), True),
    "coco panoptic": (data_set("coco-panoptic", ".json"), read_data_set("coco-panoptic"), True),
    "coco panoptic, its pictures": (data_set("coco-panoptic", ".png"), read_data_set("coco-panoptic"), False),
    "cvat": (data_set("cvat", ".xml"), read_data_set("cvat"), True),
    "cvat tracks": (data_set("cvat tracks", ".xml"), read_data_set("cvat"), True),
    "cvat masks": (data_set("cvat-masks", ".txt"), read_data_set("cvat-masks"), True),
    "cvat masks, its pictures": (data_set("cvat-masks", "Class/a.png"), read_data_set("cvat-masks"), False),
    "labelme": (data_set("labelme", ".json"), read_data_set("labelme"), True),
    "supervisely": (data_set("supervisely", ".json"), read_data_set("supervisely"), True),
    "label studio": (data_set("label-studio", ".json"), read_data_set("label-studio"), True),
    "via": (data_set("via", ".json"), read_data_set("via"), True),
    "yolo": (data_set("yolo", ".txt", ".yaml"), read_data_set("yolo"), True),
    "roboflow": (data_set("roboflow", ".csv"), read_data_set("roboflow"), True),
    "cityscapes outlines": (data_set("cityscapes outlines", ".json"), read_data_set("cityscapes"), True),
    "webdataset, its index": (data_set("webdataset", ".json"), read_data_set("webdataset"), True),
    "webdataset, its tars": (data_set("webdataset", ".tar"), read_data_set("webdataset"), False),
    "tfrecord, as data": (data_set("tfrecord", ".tfrecord"), read_data_set("tfrecord"), False),
    "classes and lists": (data_set("images", ".txt"), read_data_set("images"), True),
    "masks": (data_set("images", *(f"masks/{name}.png" for name in "abc")), read_data_set("images"), False),
    "jpeg": (picture_file("JPEG"), read_photo, False),
    "jpeg, progressive": (picture_file("JPEG", progressive=True), read_photo, False),
    "png": (picture_file("PNG"), read_photo, False),
    "png of 16 bits": (wide_photo, read_photo, False),
    "tiff": (picture_file("TIFF"), read_photo, False),
    "tiff, packed": (picture_file("TIFF", compression="tiff_lzw"), read_photo, False),
    "webp": (picture_file("WebP"), read_photo, False),
    "gif": (animation, read_photo, False),
    "bmp": (picture_file("BMP"), read_photo, False),
    "teacher's maps": (teacher, read_teacher, False),
    "kept decoded": (decoded, read_decoded, False),
    "counts to compare with": (counts, read_counts_file, False),
}
