"""labelme: a JSON for each photo.

    ROOT/NAME.json with "imagePath", "imageHeight", "imageWidth" and "shapes"; also ROOT/train/, ROOT/val/, or in
    folders of their own
    ROOT/labels.txt, optional: class names, one a line

Shapes: polygon, rectangle, circle, mask. Source: labelme's documentation of its annotation file.
"""

from __future__ import annotations

import base64
import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab.data.joining import find_file, visible
from deeplab.data.layouts import polygons
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.painting import (
    ClassList,
    Painter,
    Picture,
    Region,
    broken,
    class_name,
    mentions,
    no_area,
    read_json,
)
from deeplab.data.layouts.polygons import Window
from deeplab.data.stored import Item, StoredSplit, joined, listing
from deeplab.errors import UserError

LOOKS_FOR = 'NAME.json with "shapes" and "imagePath" (labelme), also in folders'
NAMES_FILE = "labels.txt"
LOOKED_AT = 3


def recognise(root: Path) -> bool:
    """Whether one of the first JSON files is labelme's."""
    folders = [root, *(folder for folder in visible(root) if folder.is_dir())]
    files = [path for folder in folders for path in visible(folder, "*.json")[:LOOKED_AT]]
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
    files = listing(folder, _annotations(folder)).files
    if not files:
        raise UserError(f"{folder} holds no JSON; fix: name the folder that labelme wrote to")
    chosen = list(files) if folder != root else by_name.choose(root, list(files), split)
    photos = {name: _photo(files[name]) for name in chosen if name in files}
    items, missing = joined(chosen, photos, files)
    classes, origin = (ClassList(names), "the names given") if names else _classes(root)
    read = Painter(_picture, classes)
    return StoredSplit(
        classes=classes.classes,
        origin=origin,
        items=items,
        missing=missing,
        unlisted=frozenset(files).difference(chosen),
        read=read,
    )


def _annotations(folder: Path) -> list[Path]:
    """The JSON files there; else those below, where they lie apart from the photos."""
    return visible(folder, "*.json") or visible(folder, "**/*.json")


def _photo(path: Path) -> Path:
    content = read_json(path)
    try:
        return find_file((path.parent,), content["imagePath"])
    except (KeyError, TypeError) as error:
        raise broken(path, error) from error


def _classes(root: Path) -> tuple[ClassList, str]:
    if (root / NAMES_FILE).is_file():
        return ClassList.of(by_name.read_classes(root / NAMES_FILE)), NAMES_FILE
    labels = set()
    # all splits count, so that each gives a class the same index
    for path in visible(root, "**/*.json"):
        content = read_json(path)
        if isinstance(content, dict) and "shapes" in content:
            labels.update(class_name(shape["label"], path) for shape in content["shapes"])
    return ClassList.of(sorted(labels)), "the labels drawn"


def _picture(item: Item) -> Picture:
    content = read_json(item.mask)
    try:
        size = int(content["imageHeight"]), int(content["imageWidth"])
        return Picture(
            size,
            [
                Region(
                    class_name(shape["label"], item.mask), partial(_cover, shape, size=size, file=item.mask)
                )
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
