"""labelme: a JSON beside each photo.

    ROOT/NAME.json with "imagePath", "imageHeight", "imageWidth" and "shapes"; also ROOT/train/, ROOT/val/
    ROOT/labels.txt, optional: class names, one a line

Shapes: polygon, rectangle, circle, mask. Source: labelme's documentation of its annotation file.
"""

from __future__ import annotations

import base64
import io
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab.data.layouts import polygons
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.painting import (
    ClassList,
    Painter,
    Picture,
    Region,
    broken,
    mentions,
    no_area,
    read_json,
)
from deeplab.data.layouts.polygons import Window
from deeplab.data.stored import Item, StoredSplit, by_stem
from deeplab.errors import UserError

LOOKS_FOR = 'NAME.json with "shapes" and "imagePath" (labelme), also in train/'
NAMES_FILE = "labels.txt"


def recognise(root: Path) -> bool:
    """Whether one of the first JSON files is labelme's."""
    folders = [root, by_name.split_folder(root, "train")]
    files = [path for folder in folders if folder for path in islice(folder.glob("*.json"), 3)]
    return any(mentions(path, b'"shapes"', b'"imagePath"') for path in files)


def splits(root: Path) -> tuple[str, ...]:
    """Folders of splits, else lists, else "train" and "val"."""
    return tuple(
        name for name in ("train", "val", "test") if by_name.split_folder(root, name)
    ) or by_name.available(root)


def survey(root: Path, split: str, *, names: tuple[str, ...] | None = None) -> StoredSplit:
    """The annotated photos of the split.

    Args:
        root: the folder.
        split: "train", "val", "test", "all", or the name of a list.
        names: class names; None takes labels.txt, else background and all labels found, by the alphabet.

    Raises:
        UserError: no such split, or an annotation that cannot be read.
    """
    folder = by_name.split_folder(root, split) or root
    files = by_stem(folder, (".json",)).files
    if not files:
        raise UserError(f"{folder} holds no JSON; fix: name the folder that labelme wrote to")
    chosen = list(files) if folder != root else by_name.choose(root, list(files), split)
    items, missing = [], []
    for name in chosen:
        item = _item(name, files[name]) if name in files else None
        if item is None:
            missing.append(f"annotation {name}.json in {folder}")
        elif item.photo.is_file():
            items.append(item)
        else:
            missing.append(f"photo {item.photo}, which {files[name]} names")
    classes, origin = (ClassList(names), "the names given") if names else _classes(root)
    read = Painter(_picture, classes)
    return StoredSplit(
        classes=classes.classes,
        origin=origin,
        items=tuple(items),
        missing=tuple(missing),
        unlisted=frozenset(files).difference(chosen),
        read=read,
    )


def _item(name: str, path: Path) -> Item:
    content = read_json(path)
    try:
        # written on Windows it has backslashes
        photo = path.parent / content["imagePath"].replace("\\", "/")
    except (KeyError, TypeError, AttributeError) as error:
        raise broken(path, error) from error
    return Item(name, photo, path)


def _classes(root: Path) -> tuple[ClassList, str]:
    if (root / NAMES_FILE).is_file():
        return ClassList.of(by_name.read_classes(root / NAMES_FILE)), NAMES_FILE
    labels: set[str] = set()
    # all splits count, so that each gives a class the same index
    for path in sorted(root.rglob("*.json")):
        content = read_json(path)
        if isinstance(content, dict) and "shapes" in content:
            labels.update(shape["label"] for shape in content["shapes"])
    return ClassList.of(sorted(labels)), "the labels drawn"


def _picture(item: Item) -> Picture:
    content = read_json(item.mask)
    try:
        size = int(content["imageHeight"]), int(content["imageWidth"])
        return Picture(
            size,
            [
                Region(shape["label"], partial(_cover, shape, size=size, file=item.mask))
                for shape in content["shapes"]
            ],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise broken(item.mask, error) from error


def _cover(shape: dict[str, Any], *, size: tuple[int, int], file: Path) -> Window:
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind == "polygon":
        return polygons.fill([points], size)
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        return polygons.fill([polygons.rectangle(x0, y0, x1, y1)], size)
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = float(np.hypot(edge_x - x, edge_y - y))
        return polygons.fill([polygons.ellipse(x, y, radius, radius)], size)
    if kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            left, top = (max(0, round(value)) for value in points[0])
            return Window(top, left, np.array(image) > 0)
    raise no_area(file, kind, ("polygon", "rectangle", "circle", "mask"))
