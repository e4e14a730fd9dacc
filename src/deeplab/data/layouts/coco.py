"""COCO instances (polygons and run lengths) as one label map a photo; smaller objects lie on top.

    ROOT/annotations/instances_train2017.json with ROOT/train2017/ or ROOT/images/train2017/
    ROOT/train/_annotations.coco.json with the photos beside it (Roboflow)
    ROOT/annotations/instances_default.json with ROOT/images/ (CVAT): split by list or hash

Classes: background, then the categories in the order of their ids. Source: COCO's data format.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.data.layouts import polygons
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.painting import ClassList, Painter, Picture, Region, broken, mentions, read_json
from deeplab.data.layouts.polygons import Window
from deeplab.data.layouts.run_lengths import coco_runs, from_runs
from deeplab.data.stored import Item, StoredSplit
from deeplab.errors import UserError

LOOKS_FOR = 'a JSON with "images", "annotations" and "categories" here, in annotations/ or in train/ (COCO)'
KEYS = (b'"images"', b'"annotations"', b'"categories"')
OTHER_TASKS = ("captions", "person_keypoints", "image_info", "panoptic", "stuff")

Size = tuple[int, int]
Entry = dict[str, Any]


@dataclass(frozen=True)
class _Pictures:
    """Finds an item's regions: size, and (class name, segmentation) of each, by item name."""

    entries: dict[str, tuple[Size, list[tuple[str, Any]]]]

    def __call__(self, item: Item) -> Picture:
        size, drawn = self.entries[item.name]
        return Picture(size, [Region(name, partial(_cover, stored, size)) for name, stored in drawn])


def recognise(root: Path) -> bool:
    """Whether there is such a file."""
    return bool(_files(root))


def splits(root: Path) -> tuple[str, ...]:
    """The splits that have a file of their own, else lists, else "train" and "val"."""
    files = _files(root)
    own = tuple(name for name in ("train", "val", "test") if _file_of(files, root, name))
    return own or by_name.available(root)


def survey(root: Path, split: str) -> StoredSplit:
    """The photos of the split's file, or of a list or hash split of the only one.

    Raises:
        UserError: no such split, or the file is of another form.
    """
    files = _files(root)
    own = _file_of(files, root, split)
    if own is None and len(files) != 1:
        found = ", ".join(str(path.relative_to(root)) for path in files) or "none"
        raise UserError(
            f"{root} has no file for the split {split!r}; found: {found}; fix: name another split"
        )
    path = own or files[0]
    content = read_json(path)
    try:
        categories = _categories(content)
        images: dict[str, Entry] = {}
        for image in content["images"]:
            # written on Windows it has backslashes
            file = image["file_name"].replace("\\", "/")
            name = str(Path(file).with_suffix(""))
            if name in images:
                raise UserError(f"{path}: two images are called {name}; fix: rename one, or merge them")
            images[name] = {**image, "file_name": file}
        drawn: dict[int, list[tuple[str, Any]]] = defaultdict(list)
        for entry in content["annotations"]:
            drawn[entry["image_id"]].append((categories[entry["category_id"]], entry["segmentation"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise broken(path, error) from error
    chosen = list(images) if own else by_name.choose(root, list(images), split)
    folder = _photo_folder(root, path, split, images)
    items, missing = [], []
    for name in chosen:
        photo = folder / images[name]["file_name"] if name in images else folder / name
        if name in images and photo.is_file():
            items.append(Item(name, photo, path))
        else:
            missing.append(f"photo {photo}, which {path} asks for")
    entries = {item.name: _entry(images[item.name], drawn, path) for item in items}
    classes = ClassList.of(categories.values())
    read = Painter(_Pictures(entries), classes, largest_first=True)
    return StoredSplit(
        classes=classes.classes,
        origin=path.name,
        items=tuple(items),
        missing=tuple(missing),
        unlisted=frozenset(images).difference(chosen),
        read=read,
    )


def _entry(image: Entry, drawn: dict[int, list[Any]], path: Path) -> tuple[Size, list[tuple[str, Any]]]:
    try:
        return (int(image["height"]), int(image["width"])), drawn.get(image["id"], [])
    except (KeyError, TypeError, ValueError) as error:
        raise broken(path, error) from error


def _categories(content: Entry) -> dict[int, str]:
    """Names by id; without Roboflow's number 0, the family name of the others, if nothing is drawn of it."""
    categories = sorted(content["categories"], key=lambda entry: entry["id"])
    families = {entry.get("supercategory") for entry in categories}
    used = {entry["category_id"] for entry in content["annotations"]}
    return {
        entry["id"]: entry["name"]
        for entry in categories
        if entry["id"] != 0 or entry["id"] in used or entry["name"] not in families
    }


def _files(root: Path) -> list[Path]:
    places = [root, root / "annotations", *(by_name.split_folder(root, name) for name in by_name.ALIASES)]
    found = [path for place in places if place for path in sorted(place.glob("*.json"))]
    return [path for path in found if not path.stem.startswith(OTHER_TASKS) and mentions(path, *KEYS)]


def _file_of(files: list[Path], root: Path, split: str) -> Path | None:
    wanted = {split, *by_name.ALIASES.get(split, ())}
    for path in files:
        words = set(re.split(r"[^a-z]+", path.stem.lower()))
        if words & wanted or (path.parent.name in wanted and path.parent != root):
            return path
    return None


def _photo_folder(root: Path, path: Path, split: str, images: dict[str, Entry]) -> Path:
    first = next(iter(images.values()), None)
    if first is None:
        raise UserError(f"{path} lists no image; fix: export it again")
    years = sorted([*root.glob(f"{split}*"), *(root / "images").glob(f"{split}*")])
    places = [path.parent, *years, root / "images", root]
    return next((place for place in places if (place / first["file_name"]).is_file()), root / "images")


def _cover(stored: Any, size: Size) -> Window:
    if isinstance(stored, dict):
        counts = stored["counts"]
        runs = coco_runs(counts) if isinstance(counts, str) else counts
        return Window(0, 0, from_runs(runs, tuple(stored["size"]), by_column=True))
    return polygons.fill([np.reshape(flat, (-1, 2)) for flat in stored], size, holes=False)
