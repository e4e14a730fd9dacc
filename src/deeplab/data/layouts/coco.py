"""COCO instances (polygons and run lengths) as one label map a photo; smaller objects lie on top.

    ROOT/annotations/instances_train2017.json with ROOT/train2017/ or ROOT/images/train2017/
    ROOT/train/_annotations.coco.json with the photos beside it (Roboflow)
    ROOT/annotations/instances_default.json with ROOT/images/ (CVAT): split by list or hash

Classes: background, then the categories in the order of their ids. Source: COCO's data format.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.data.joining import find_file, plain_name, same_id, sample_names, visible
from deeplab.data.layouts import polygons
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.painting import (
    LEAST_POINTS,
    NO_NUMBER,
    OUTSIDE,
    ClassList,
    Painter,
    Picture,
    Region,
    as_written,
    class_name,
    mentions,
    outline_fault,
    read_json,
)
from deeplab.data.layouts.polygons import Window
from deeplab.data.layouts.run_lengths import coco_runs, from_runs
from deeplab.data.stored import Item, StoredSplit, joined, left_over
from deeplab.data.upright import stored
from deeplab.errors import UserError

LOOKS_FOR = 'a JSON with "images", "annotations" and "categories" here, in annotations/ or in train/ (COCO)'
KEYS = (b'"images"', b'"annotations"', b'"categories"')
OTHER_TASKS = ("captions", "person_keypoints", "image_info", "panoptic", "stuff")

Size = tuple[int, int]
Entry = dict[str, Any]
Id = int | str
Drawn = tuple[str, str, Any]
"""What messages call an annotation, its class name and segmentation."""


@dataclass(frozen=True)
class _Pictures:
    """Finds an item's regions: size, and (class name, segmentation) of each, by item name."""

    entries: dict[str, tuple[Size, list[Drawn]]]

    def __call__(self, item: Item) -> Picture:
        size, drawn = self.entries[item.name]
        return Picture(
            size, [Region(name, partial(_cover, stored, size), place) for place, name, stored in drawn]
        )


def recognise(root: Path) -> bool:
    """Whether there is such a file."""
    return bool(_files(root))


def splits(root: Path) -> tuple[str, ...]:
    """The splits that have a file of their own, else lists, else "train" and "val"."""
    return splits_of(_files(root), root)


def splits_of(files: Sequence[Path], root: Path) -> tuple[str, ...]:
    """The same of these files, of any of COCO's kinds."""
    own = tuple(name for name in ("train", "val", "test") if files_of(files, root, name))
    return own or by_name.available(root)


def survey(root: Path, split: str) -> StoredSplit:
    """The photos of the split's file, or of a list or hash split of the only one.

    Raises:
        UserError: no such split, or the file is of another form.
    """
    path, own = file_for(_files(root), root, split)
    content = read_json(path)
    with as_written(path):
        categories = _categories(content, path)
        images = [{**image, "file_name": plain_name(image["file_name"])} for image in content["images"]]
        drawn, bad, stray = _joined_by_id(images, content["annotations"], categories, path)
        entries = dict(zip(sample_names(image["file_name"] for image in images), images, strict=True))
    if len(entries) < len(images):
        twice, _ = Counter(image["file_name"] for image in images).most_common(1)[0]
        raise UserError(
            f"two images are called {twice}", fix="give each its own name, or merge them", file=path
        )
    chosen = list(entries) if own else by_name.choose(root, list(entries), split, hashed=splits(root))
    folder = photo_folder(root, path, split, images)
    photos = {name: find_file((folder,), entries[name]["file_name"]) for name in chosen if name in entries}
    items, missing = joined(chosen, photos, path)
    with as_written(path):
        drawings = {item.name: _entry(entries[item.name], item.photo, drawn) for item in items}
    classes = ClassList.of(categories.values())
    read = Painter(_Pictures(drawings), classes, largest_first=True)
    return StoredSplit(
        classes=classes.classes,
        origin=path.name,
        items=items,
        missing=missing,
        stray=stray,
        unannotated=left_over((item.photo for item in items), (image["file_name"] for image in images)),
        bad=tuple(text for item in items for text in bad[same_id(entries[item.name]["id"])]),
        unlisted=frozenset(entries).difference(chosen),
        read=read,
    )


def _joined_by_id(
    images: Sequence[Entry], annotations: Sequence[Entry], categories: Mapping[Id, str], path: Path
) -> tuple[dict[Id, list[Drawn]], dict[Id, list[str]], tuple[str, ...]]:
    """By the image's id what is drawn on it, and what paints nothing; and the annotations of what is not listed."""
    drawn: dict[Id, list[Drawn]] = {}
    bad: dict[Id, list[str]] = {}
    files: dict[Id, str] = {}
    sizes: dict[Id, Size] = {}
    for image in images:
        key, file = same_id(image["id"]), image["file_name"]
        if files.setdefault(key, file) != file or key in drawn:
            raise UserError(
                f"two images have the id {image['id']}, {files[key]} and {file}",
                fix="number the images anew, in the annotations too",
                file=path,
            )
        drawn[key], bad[key] = [], []
        sizes[key] = int(image.get("height") or 0), int(image.get("width") or 0)
    stray = []
    for entry in annotations:
        key, category, name = same_id(entry["image_id"]), same_id(entry["category_id"]), entry.get("id")
        if key not in drawn or category not in categories:
            what = f"image_id {entry['image_id']!r}" if key not in drawn else f"category_id {category!r}"
            stray.append(f"annotation {name} of {path}: {what}")
            continue
        usable, fault = _usable(entry, sizes[key])
        if usable:
            drawn[key].append((f"annotation {name}", categories[category], usable))
        if fault:
            bad[key].append(f"annotation {name} of {files[key]} in {path}: {fault}")
    faults = [text for each in bad.values() for text in each]
    if faults and not any(drawn.values()):
        what = "has boxes, no segmentation" if "bbox" in annotations[0] else "has no usable outline"
        raise UserError(
            f"{what} ({len(faults)} annotations, first: {faults[0]})",
            fix="export outlines or masks",
            file=path,
        )
    return drawn, bad, tuple(stray)


def _usable(entry: Entry, size: Size) -> tuple[Any, str]:
    """What of an annotation's segmentation can be painted, and what is wrong with the rest."""
    stored = entry.get("segmentation")
    if isinstance(stored, dict):
        return (stored, "") if stored.get("counts") else (None, "its run lengths are missing")
    if not stored or not isinstance(stored, list):
        return None, "it has a box, no segmentation" if entry.get("bbox") else "it has no segmentation"
    # some converters leave out the outer list
    rings = [stored] if isinstance(stored[0], int | float) else stored
    faults = [_ring_fault(ring, size) for ring in rings]
    usable = [ring for ring, fault in zip(rings, faults, strict=True) if not fault]
    return usable or None, next((fault for fault in faults if fault), "")


def _ring_fault(ring: Any, size: Size) -> str:
    """See `outline_fault`; of [x, y, x, y, ...], where most of a million rings are sound."""
    if isinstance(ring, list) and len(ring) >= 2 * LEAST_POINTS and not len(ring) % 2:
        with suppress(TypeError, OverflowError):
            if not math.isfinite(sum(ring)):
                return NO_NUMBER
            # most lie within the smaller side, and need no closer look
            if (min(ring) >= 0 and max(ring) <= min(size)) or min(size) < 1:
                return ""
            x, y = ring[::2], ring[1::2]
            outside = max(x) < 0 or min(x) > size[1] or max(y) < 0 or min(y) > size[0]
            return OUTSIDE if outside else ""
    return outline_fault(
        [ring[at : at + 2] for at in range(0, len(ring), 2)] if isinstance(ring, list) else ring
    )


def _entry(image: Entry, photo: Path, drawn: Mapping[Id, list[Drawn]]) -> tuple[Size, list[Drawn]]:
    height, width = image.get("height"), image.get("width")
    size = (int(height), int(width)) if height and width else stored(photo).upright
    return size, drawn[same_id(image["id"])]


def _categories(content: Entry, path: Path) -> dict[Id, str]:
    """Names by id; without Roboflow's number 0, the family name of the others, if nothing is drawn of it."""
    listed = dict.fromkeys(
        (same_id(entry["id"]), class_name(entry["name"])) for entry in content["categories"]
    )
    nameless = [number for number, name in listed if not name]
    if nameless:
        raise UserError(f"category {nameless[0]!r} has no name", fix="name it", file=path)
    for kind, values in zip(("id", "name"), zip(*listed, strict=True), strict=False):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise UserError(
                f"two categories have the {kind} {twice[0]!r}", fix="merge or rename them", file=path
            )
    families = {entry.get("supercategory") for entry in content["categories"]}
    used = {same_id(entry["category_id"]) for entry in content["annotations"]}
    # ids may be text
    ordered = sorted(listed, key=lambda pair: (isinstance(pair[0], str), pair[0]))
    return {number: name for number, name in ordered if number != 0 or number in used or name not in families}


def _files(root: Path) -> list[Path]:
    places = [root, root / "annotations", *(by_name.split_folder(root, name) for name in by_name.ALIASES)]
    found = [path for place in places if place for path in visible(place, "*.json")]
    own = [path for path in found if not path.stem.startswith(OTHER_TASKS) and mentions(path, *KEYS)]
    return [
        path for path in own if not (path.with_suffix("").is_dir() and mentions(path, b'"segments_info"'))
    ]


def files_of(files: Sequence[Path], root: Path, split: str) -> list[Path]:
    """The files of that split, by a word of their name or by their folder."""
    wanted = {split, *by_name.ALIASES.get(split, ())}
    return [
        path
        for path in files
        if wanted.intersection(re.split(r"[^a-z]+", path.stem.lower()))
        or (path.parent.name in wanted and path.parent != root)
    ]


def file_for(files: list[Path], root: Path, split: str) -> tuple[Path, bool]:
    """The file that the split is in, and whether it is the split's own.

    Raises:
        UserError: several are the split's own, or none is and there is not one alone.
    """
    own = files_of(files, root, split)
    if not own and len(files) != 1:
        found = ", ".join(str(path.relative_to(root)) for path in files) or "none"
        raise UserError(
            f"{root} has no file for the split {split!r}; found: {found}", fix="name another split"
        )
    return by_name.the_only(own or files), bool(own)


def photo_folder(root: Path, path: Path, split: str, images: Sequence[Entry]) -> Path:
    """The first of the usual folders that has one of the photos, by its whole name if there is one."""
    if not images:
        raise UserError(f"{path} lists no image", fix="export it again")
    years = [*visible(root, f"{split}*"), *visible(root / "images", f"{split}*")]
    places = [path.parent, *years, root / "images", root]
    files = [image["file_name"] for image in images]
    whole = (place for file in files for place in places if isfile(place / file))
    last = (place for file in files for place in places if isfile(find_file((place,), file)))
    return next(whole, None) or next(last, root / "images")


def _cover(stored: Any, size: Size) -> Window:
    if isinstance(stored, dict):
        if tuple(stored["size"]) != size:
            raise UserError(
                f"run lengths for {stored['size'][1]}x{stored['size'][0]} pixels on a photo of {size[1]}x{size[0]}",
                fix="export again",
            )
        counts = stored["counts"]
        runs = coco_runs(counts) if isinstance(counts, str) else counts
        return Window(0, 0, from_runs(runs, size, by_column=True))
    return polygons.fill([np.reshape(flat, (-1, 2)) for flat in stored], size, holes=False)
