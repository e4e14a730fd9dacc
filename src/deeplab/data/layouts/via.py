"""VGG Image Annotator (VIA, 1 and 2): a JSON of all photos' regions.

    ROOT/*.json (an export, or a project with "_via_img_metadata") with the photos beside it or in ROOT/images/
    ROOT/train/*.json and ROOT/val/*.json likewise

Shapes: polygon, rect, circle, ellipse. A region's class is the only attribute that the file's regions have, or the one
of several that is called class, label, name, type or category. Classes: background and all that are drawn, by the
alphabet. Source: VIA's documentation of its annotation files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.data.joining import find_file, plain_name, sample_names, visible
from deeplab.data.layouts import polygons
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.painting import (
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
from deeplab.data.stored import Item, StoredSplit, joined, left_over
from deeplab.data.upright import stored
from deeplab.errors import UserError

LOOKS_FOR = 'a JSON with "regions" and "shape_attributes" here or in train/ (VIA)'
KEYS = (b'"filename"', b'"regions"', b'"shape_attributes"')
PROJECT = "_via_img_metadata"
CLASS_ATTRIBUTES = ("class", "label", "name", "type", "category")
CLASS = "class of the region"
"""Where a region keeps what its attributes say."""
SHAPES = ("polygon", "rect", "circle", "ellipse")

Entry = dict[str, Any]


@dataclass(frozen=True)
class _Pictures:
    """Finds an item's regions; the photo's size is not in VIA's files."""

    regions: dict[str, list[Entry]]

    def __call__(self, item: Item) -> Picture:
        size = stored(item.photo).upright
        return Picture(size, _regions(self.regions[item.name], size, item.mask, photo=item.photo.name))


def recognise(root: Path) -> bool:
    """Whether there is such a file."""
    return any(_files(folder) for folder in _folders(root).values())


def splits(root: Path) -> tuple[str, ...]:
    """The folders of splits that have a file, else lists, else "train" and "val"."""
    own = tuple(split for split, folder in _folders(root).items() if split and _files(folder))
    return own or by_name.available(root)


def survey(root: Path, split: str, *, names: tuple[str, ...] | None = None) -> StoredSplit:
    """The photos of a split's own file, or of a list or hash split of the only one.

    Args:
        root: the folder.
        split: "train", "val", "test", "all", or the name of a list.
        names: class names; None takes background and all classes found, by the alphabet.

    Raises:
        UserError: no such split, or a file of another form.
    """
    folders = _folders(root)
    own = bool(split in folders and _files(folders[split]))
    folder = folders[split] if own else root
    exports = _files(folder)
    if not exports:
        raise UserError(
            f"{folder} holds no {LOOKS_FOR}", fix=f"name a split that has one: {', '.join(splits(root))}"
        )
    path = by_name.the_only(exports)
    listed = _listed(path)
    files = [plain_name(entry["filename"]) for entry in listed]
    entries = dict(zip(sample_names(files), listed, strict=True))
    if len(entries) < len(listed):
        twice = next(file for file in files if files.count(file) > 1)
        raise UserError(
            f"two photos are called {twice}", fix="give each its own name, or merge them", file=path
        )
    chosen = list(entries) if own else by_name.choose(root, list(entries), split, hashed=splits(root))
    photos = {
        name: find_file((folder, folder / "images"), entry["filename"]) for name, entry in entries.items()
    }
    items, missing = joined(chosen, photos, path)
    regions = {item.name: entries[item.name]["regions"] for item in items}
    bad = [
        text
        for item in items
        for text in unpainted(_regions(regions[item.name], (0, 0), path, photo=item.photo.name), path)
    ]
    every = (_listed(file) for place in folders.values() for file in _files(place))
    found = {region[CLASS] for listed in every for entry in listed for region in entry["regions"]} - {""}
    if bad and not found:
        raise UserError(
            f"no region has a class (first: {bad[0]})",
            fix="give regions one attribute, their class",
            file=path,
        )
    classes = ClassList(names) if names else ClassList.of(sorted(found))
    return StoredSplit(
        classes=classes.classes,
        origin="the names given" if names else "the regions drawn",
        items=items,
        missing=missing,
        unannotated=left_over((item.photo for item in items), files),
        bad=tuple(bad),
        unlisted=frozenset(entries).difference(chosen),
        read=Painter(_Pictures(regions), classes),
    )


def _folders(root: Path) -> dict[str, Path]:
    """The splits' folders, and "" for `root`."""
    own = {split: by_name.split_folder(root, split) for split in by_name.ALIASES}
    return {split: folder for split, folder in own.items() if folder is not None} | {"": root}


def _files(folder: Path) -> list[Path]:
    return [path for path in visible(folder, "*.json") if mentions(path, *KEYS)]


def _listed(path: Path) -> list[Entry]:
    """The photos, each with "filename" and a list of "regions", which are a table in VIA 1."""
    content = read_json(path)
    with as_written(path):
        listed = list(content.get(PROJECT, content).values())
        for entry in listed:
            regions = entry.get("regions") or []
            entry["regions"] = list(regions.values()) if isinstance(regions, dict) else regions
            plain_name(entry["filename"])
        regions = [region for entry in listed for region in entry["regions"]]
        # a region lacks the attributes that nobody set there, and another one of its own is not its class
        known = dict.fromkeys(key for region in regions for key in _attributes(region))
        wanted = list(known) if len(known) == 1 else [key for key in CLASS_ATTRIBUTES if key in known]
        for region in regions:
            region["shape_attributes"]["name"]
            region[CLASS] = _class(_attributes(region), wanted)
    return listed


def _attributes(region: Entry) -> Entry:
    attributes = region.get("region_attributes")
    return attributes if isinstance(attributes, dict) else {}


def _class(attributes: Entry, wanted: Sequence[str]) -> str:
    """The value of the first of the attributes that are wanted; "" for none."""
    value = next((attributes[key] for key in wanted if key in attributes), None)
    if isinstance(value, dict):
        # a check box
        ticked = [name for name, on in value.items() if on]
        value = ticked[0] if len(ticked) == 1 else None
    return class_name(value)


def _regions(regions: list[Entry], size: tuple[int, int], file: Path, *, photo: str) -> list[Region]:
    return [
        Region(
            region[CLASS],
            partial(_cover, region["shape_attributes"], size=size, file=file),
            f"region {number} ({region[CLASS]}) of {photo}",
            _fault(region),
        )
        for number, region in enumerate(regions, 1)
    ]


def _fault(region: Entry) -> str:
    shape = region["shape_attributes"]
    if not region[CLASS]:
        return "it has no class"
    return outline_fault(_points(shape)) if shape["name"] == "polygon" else ""


def _points(shape: Entry) -> list[tuple[Any, ...]]:
    x, y = shape.get("all_points_x") or [], shape.get("all_points_y") or []
    paired = isinstance(x, list) and isinstance(y, list) and len(x) == len(y)
    return list(zip(x, y, strict=True)) if paired else [(None,)]


def _cover(shape: Entry, *, size: tuple[int, int], file: Path) -> Window:
    kind = shape["name"]
    if kind == "polygon":
        return polygons.fill([_points(shape)], size)
    if kind == "rect":
        x, y = shape["x"], shape["y"]
        return polygons.fill([polygons.rectangle(x, y, x + shape["width"], y + shape["height"])], size)
    if kind == "circle":
        return polygons.fill([polygons.ellipse(shape["cx"], shape["cy"], shape["r"], shape["r"])], size)
    if kind == "ellipse":
        ring = polygons.ellipse(
            shape["cx"],
            shape["cy"],
            shape["rx"],
            shape["ry"],
            degrees=float(np.rad2deg(shape.get("theta") or 0)),
        )
        return polygons.fill([ring], size)
    raise no_area(file, kind, SHAPES)
