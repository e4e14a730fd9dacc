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

from deeplab.data.joining import find_file, plain_name, visible
from deeplab.data.layouts import polygons
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.painting import (
    TOO_FEW,
    ClassList,
    Painter,
    Picture,
    Region,
    broken,
    class_name,
    mentions,
    no_area,
    outline_fault,
    read_json,
    unpainted,
)
from deeplab.data.layouts.polygons import Window
from deeplab.data.stored import Item, StoredSplit, joined, listing
from deeplab.data.upright import stored
from deeplab.errors import UserError

LOOKS_FOR = 'NAME.json with "shapes" and "imagePath" (labelme), also in folders'
NAMES_FILE = "labels.txt"
LOOKED_AT = 3

Size = tuple[int, int]


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
    photos, bad = {}, []
    for name in chosen:
        if name in files:
            content = _read(files[name])
            photos[name] = find_file((files[name].parent,), content["imagePath"])
            bad += unpainted(_regions(content, (0, 0), files[name]), files[name])
    items, missing = joined(chosen, photos, files)
    classes, origin = (ClassList(names), "the names given") if names else _classes(root)
    read = Painter(_picture, classes)
    return StoredSplit(
        classes=classes.classes,
        origin=origin,
        items=items,
        missing=missing,
        bad=tuple(bad),
        unlisted=frozenset(files).difference(chosen),
        read=read,
    )


def _annotations(folder: Path) -> list[Path]:
    """The JSON files there; else those below, where they lie apart from the photos."""
    return visible(folder, "*.json") or visible(folder, "**/*.json")


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    try:
        shapes = [{**shape, "points": shape.get("points") or []} for shape in content["shapes"] or ()]
        return {**content, "imagePath": plain_name(content["imagePath"]), "shapes": shapes}
    except (KeyError, TypeError, AttributeError) as error:
        raise broken(path, error) from error


def _classes(root: Path) -> tuple[ClassList, str]:
    if (root / NAMES_FILE).is_file():
        return ClassList.of(by_name.read_classes(root / NAMES_FILE)), NAMES_FILE
    labels = set()
    # all splits count, so that each gives a class the same index
    for path in visible(root, "**/*.json"):
        content = read_json(path)
        if isinstance(content, dict) and "shapes" in content:
            labels.update(
                name for shape in content["shapes"] or () if (name := class_name(shape.get("label")))
            )
    return ClassList.of(sorted(labels)), "the labels drawn"


def _picture(item: Item) -> Picture:
    content = _read(item.mask)
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (int(height), int(width)) if height and width else stored(item.photo).upright
    return Picture(size, _regions(content, size, item.mask))


def _regions(content: dict[str, Any], size: Size, file: Path) -> list[Region]:
    return [
        Region(
            class_name(shape.get("label")),
            partial(_cover, shape, size=size, file=file),
            f"shape {number} ({shape.get('label')})",
            _fault(shape),
        )
        for number, shape in enumerate(content["shapes"], 1)
    ]


def _fault(shape: dict[str, Any]) -> str:
    kind, points = _kind(shape), shape["points"]
    if not class_name(shape.get("label")):
        return "it has no label"
    if kind == "mask" and not shape.get("mask"):
        return "its mask is missing"
    fault = outline_fault(points)
    # the other kinds are told by two corners
    return "" if kind != "polygon" and len(points) == 2 and fault.startswith(TOO_FEW) else fault


def _kind(shape: dict[str, Any]) -> str:
    """Of a shape; a rectangle of four corners, as newer versions write it, is a polygon."""
    kind = shape.get("shape_type") or "polygon"
    return "polygon" if kind == "rectangle" and len(shape["points"]) > 2 else kind


def _cover(shape: dict[str, Any], *, size: Size, file: Path) -> Window:
    kind, points = _kind(shape), shape["points"]
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
            left, top = (round(value) for value in points[0])
            return Window(top, left, np.array(image) > 0)
    raise no_area(file, kind, ("polygon", "rectangle", "circle", "mask"))
