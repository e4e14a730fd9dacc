"""labelme: a JSON for each photo.

    ROOT/NAME.json with "imagePath", "imageHeight", "imageWidth" and "shapes"; also ROOT/train/, ROOT/val/, or in
    folders of their own
    ROOT/labels.txt, optional: class names, one a line

Shapes: polygon, rectangle, circle, mask; line and linestrip, if the recipe says how wide they are. A photo that is not
there is read from the JSON's "imageData". Source: labelme's documentation of its annotation file.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import partial
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.data.joining import find_file, plain_name, visible
from deeplab.data.layouts import polygons
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.embedded import read_embedded_photo
from deeplab.data.layouts.painting import (
    NO_SIZE,
    TOO_FEW,
    ClassList,
    Painter,
    Picture,
    Region,
    as_written,
    class_name,
    mentions,
    no_area,
    outline_fault,
    read_json,
    unpainted,
)
from deeplab.data.layouts.polygons import Window
from deeplab.data.stored import Item, StoredSplit, joined, listing, pictures
from deeplab.data.upright import Stored, stored
from deeplab.errors import UserError
from deeplab.imaging.pictures import opened_picture

LOOKS_FOR = 'NAME.json with "shapes" and "imagePath" (labelme), also in folders'
NAMES_FILE = "labels.txt"
LOOKED_AT = 3
LINES = ("line", "linestrip")

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


@dataclass(frozen=True, kw_only=True)
class LabelmeSplit(StoredSplit):
    """A `StoredSplit` whose photos may lie inside their annotation, which is then both files of an item."""

    def files(self, index: int) -> tuple[str, str]:
        """See `Source`."""
        item = self.items[index]
        return f"{item.photo}{':imageData' if item.photo == item.mask else ''}", str(item.mask)

    def photo(self, index: int) -> np.ndarray:
        """See `Source`."""
        item = self.items[index]
        if item.photo != item.mask:
            return super().photo(index)
        return read_embedded_photo(*self.embedded(index), self.bands)

    def embedded(self, index: int) -> tuple[bytes, str]:
        """See `Survey`."""
        note = self.items[index].mask
        return _photo_inside(note), f"{note}:imageData"

    def lies(self, index: int) -> Stored | None:
        """See `Survey`; labelme turns what it stores."""
        item = self.items[index]
        return None if item.photo == item.mask else super().lies(index)


@dataclass(frozen=True)
class _Pictures:
    """Finds an item's regions; lines are `line_width` pixels wide, None refuses them."""

    line_width: float | None

    def __call__(self, item: Item) -> Picture:
        content = _read(item.mask)
        size = _size_said(content)
        if size == NO_SIZE:
            inside = item.photo == item.mask
            size = stored(
                _photo_inside(item.mask) if inside else item.photo, f"{item.mask}:imageData"
            ).upright
        return Picture(size, _regions(content, size, item.mask, self.line_width))


def survey(
    root: Path, split: str, *, names: tuple[str, ...] | None = None, line_width: float | None = None
) -> LabelmeSplit:
    """The annotated photos of the split.

    Args:
        root: the folder.
        split: "train", "val", "test", "all", or the name of a list.
        names: class names; None takes labels.txt, else background and all labels found, by the alphabet.
        line_width: of lines, in pixels; None refuses them when their labels are read.

    Raises:
        UserError: no such split, or an annotation that cannot be read.
    """
    folder = by_name.split_folder(root, split) or root
    files = listing(folder, _annotations(folder)).files
    if not files:
        raise UserError(f"{folder} holds no JSON", fix="name the folder that labelme wrote to")
    chosen = list(files) if folder != root else by_name.choose(root, list(files), split, hashed=splits(root))
    photos: dict[str, Path] = {}
    bad: list[str] = []
    for name in chosen:
        if name in files:
            content = _read(files[name])
            photo = find_file((files[name].parent,), content["imagePath"])
            photos[name] = photo if isfile(photo) or not content.get("imageData") else files[name]
            with as_written(files[name]):
                size = _size_said(content)
            bad += unpainted(_regions(content, size, files[name], line_width), files[name])
    items, missing = joined(chosen, photos, files)
    # a JSON is called as its photo, which may lie in another folder; but a photo that is called alike is another one
    annotated = {name.rpartition("/")[2] for name in files} | {item.photo.stem for item in items}
    taken = {item.photo for item in items}
    alike = {photo.with_suffix("") for photo in taken}
    classes, origin = (ClassList(names), "the names given") if names else _classes(root)
    read = Painter(_Pictures(line_width), classes)
    return LabelmeSplit(
        classes=classes.classes,
        origin=origin,
        items=items,
        missing=missing,
        bad=tuple(bad),
        unannotated=tuple(
            photo
            for photo in pictures(folder)
            if photo not in taken
            and (plain_name(photo.stem) not in annotated or photo.with_suffix("") in alike)
        ),
        unlisted=frozenset(files).difference(chosen),
        read=read,
    )


def _annotations(folder: Path) -> list[Path]:
    """The JSON files there; else those below, where they lie apart from the photos."""
    return visible(folder, "*.json") or visible(folder, "**/*.json")


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    with as_written(path):
        shapes = [
            {**shape, "points": points if isinstance(points := shape.get("points"), list) else []}
            for shape in content["shapes"] or ()
        ]
        return {**content, "imagePath": plain_name(content["imagePath"]), "shapes": shapes}


def _size_said(content: dict[str, Any]) -> Size:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    return (int(height), int(width)) if height and width else NO_SIZE


def _classes(root: Path) -> tuple[ClassList, str]:
    if (root / NAMES_FILE).is_file():
        return ClassList.of(by_name.read_classes(root / NAMES_FILE)), NAMES_FILE
    labels: set[str] = set()
    # all splits count, so that each gives a class the same index
    for path in visible(root, "**/*.json"):
        content = read_json(path)
        if isinstance(content, dict) and "shapes" in content:
            labels.update(class_name(shape.get("label")) for shape in _read(path)["shapes"])
    return ClassList.of(sorted(labels - {""})), "the labels drawn"


def _photo_inside(path: Path) -> bytes:
    with as_written(path):
        return base64.b64decode(read_json(path)["imageData"])


def _regions(content: dict[str, Any], size: Size, file: Path, line_width: float | None) -> list[Region]:
    return [
        Region(
            class_name(shape.get("label")),
            partial(_cover, shape, size=size, file=file, line_width=line_width),
            f"shape {number} ({shape.get('label')})",
            _fault(shape, size),
        )
        for number, shape in enumerate(content["shapes"], 1)
    ]


def _fault(shape: dict[str, Any], size: Size) -> str:
    kind, points = _kind(shape), shape["points"]
    if not class_name(shape.get("label")):
        return "it has no label"
    if kind == "mask" and not shape.get("mask"):
        return "its mask is missing"
    fault = outline_fault(points, size)
    # the other kinds are told by two corners
    return "" if kind != "polygon" and len(points) == 2 and fault.startswith(TOO_FEW) else fault


def _kind(shape: dict[str, Any]) -> str:
    """Of a shape; a rectangle of four corners, as newer versions write it, is a polygon."""
    kind = shape.get("shape_type") or "polygon"
    return "polygon" if kind == "rectangle" and len(shape["points"]) > 2 else kind


def _cover(shape: dict[str, Any], *, size: Size, file: Path, line_width: float | None) -> Window:
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
        with opened_picture(base64.b64decode(shape["mask"])) as image:
            left, top = (round(value) for value in points[0])
            return Window(top, left, np.array(image) > 0)
    if kind in LINES and line_width:
        return polygons.fill(polygons.thick_line(points, line_width), size, holes=False)
    if kind in LINES:
        raise UserError(
            f"a shape of type {kind!r} has no area",
            fix="say how wide it is, data.line_width=10 (pixels), or delete it",
        )
    raise no_area(file, kind, ("polygon", "rectangle", "circle", "mask", *LINES))
