"""Label Studio's JSON export.

    ROOT/*.json, a list of tasks; photos in ROOT/images/ or ROOT, by the name that the task has for them

Regions: polygon, brush, rectangle, ellipse, with their labels or beside a result of the same id that has them. Of
several annotations that were not cancelled the one set as ground truth counts, else the first. Uploaded photos have
eight hexadecimal digits and a hyphen before their name, which may be gone on disk; a photo is called as its file is.
Source: Label Studio's documentation of its results.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from os.path import isfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from deeplab.data.joining import distinct, find_file, plain_name, visible, without_suffix
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
from deeplab.data.layouts.run_lengths import brush_mask
from deeplab.data.stored import Item, StoredSplit, joined, left_over
from deeplab.data.upright import stored
from deeplab.errors import UserError
from deeplab.imaging.photos import PHOTO_SUFFIXES
from deeplab.system.reading import beginning

LOOKS_FOR = 'a JSON that is a list of tasks with "data" and "annotations" (Label Studio)'
SHAPES, LABELS = ("polygon", "brush", "rectangle", "ellipse"), "labels"
KINDS = tuple(shape + LABELS for shape in SHAPES)
NOT_PAINTED = frozenset({"choices", "textarea", "rating", "number", "taxonomy", "relation", "datetime"})
UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")

LIST_START = 64
BOM = b"\xef\xbb\xbf"

Size = tuple[int, int]
Task = dict[str, Any]


@dataclass(frozen=True)
class _Pictures:
    """Finds an item's regions; `size` of photos without any is read from the photo."""

    results: dict[str, list[Task]]

    def __call__(self, item: Item) -> Picture:
        results = self.results[item.name]
        height, width = (
            results[0].get(f"original_{side}") if results else None for side in ("height", "width")
        )
        size = (int(height), int(width)) if height and width else stored(item.photo).upright
        return Picture(size, _regions(results, size, item.mask, photo=item.photo.name))


def recognise(root: Path) -> bool:
    """Whether a JSON in `root` is such a list."""
    return bool(_files(root))


def splits(root: Path) -> tuple[str, ...]:
    """Lists, else "train" and "val"."""
    return by_name.available(root)


def survey(root: Path, split: str, *, names: tuple[str, ...] | None = None) -> StoredSplit:
    """The annotated photos of the split; tasks without an annotation are left out.

    Args:
        root: folder that holds the JSON.
        split: "train", "val", "all", or the name of a list.
        names: class names; None takes background and all labels found, by the alphabet.

    Raises:
        UserError: no such split, or the JSON is of another form.
    """
    exports = _files(root)
    if not exports:
        raise UserError(f"{root} holds no {LOOKS_FOR}", fix="export as JSON (not JSON-MIN) into it")
    path = by_name.the_only(exports)
    with as_written(path):
        listed = read_json(path)
        tasks = [task for task in listed if _annotation(task)]
        open_tasks = [_find_photo(root, _photo_name(task)) for task in listed if not _annotation(task)]
        files = [_photo_name(task) for task in tasks]
        results = [_results(task) for task in tasks]
        labels = sorted({label for each in results for result in each if (label := _label(result))})
        bad = [
            unpainted(_regions(each, (0, 0), path, photo=file), path)
            for each, file in zip(results, files, strict=True)
        ]
    if not labels and any(bad):
        raise UserError("no region has a label", fix="export regions whose tag has labels", file=path)
    # most photos have a name of their own without their folders
    short = [
        (without_suffix(plain_name(_find_photo(root, file).name)), without_suffix(file), file)
        for file in files
    ]
    entries = dict(zip(distinct(short), zip(files, results, bad, strict=True), strict=True))
    if len(entries) < len(tasks):
        file, _ = Counter(files).most_common(1)[0]
        both = [str(task.get("id")) for task, name in zip(tasks, files, strict=True) if name == file]
        raise UserError(
            f"two tasks, {' and '.join(both)}, are of a photo {file}", fix="delete one of them", file=path
        )
    chosen = by_name.choose(root, list(entries), split)
    photos = {name: _find_photo(root, entries[name][0]) for name in chosen if name in entries}
    items, missing = joined(chosen, photos, path)
    classes = ClassList(names) if names else ClassList.of(labels)
    read = Painter(_Pictures({item.name: entries[item.name][1] for item in items}), classes)
    return StoredSplit(
        classes=classes.classes,
        origin="the names given" if names else path.name,
        items=items,
        missing=missing,
        unannotated=(
            *(photo for photo in open_tasks if isfile(photo)),
            *left_over((item.photo for item in items), map(_photo_name, listed)),
        ),
        bad=tuple(text for item in items for text in entries[item.name][2]),
        unlisted=frozenset(entries).difference(chosen),
        read=read,
    )


def _files(root: Path) -> list[Path]:
    found = []
    for path in visible(root, "*.json"):
        is_list = beginning(path, LIST_START).removeprefix(BOM).lstrip().startswith(b"[")
        if is_list and mentions(path, b'"data"', b'"annotations"', b'"result"'):
            found.append(path)
    return found


def _annotation(task: Task) -> Task | None:
    valid = [entry for entry in task["annotations"] if not entry.get("was_cancelled")]
    return next((entry for entry in valid if entry.get("ground_truth")), next(iter(valid), None))


def _results(task: Task) -> list[Task]:
    annotation = _annotation(task) or {"result": []}
    results = [result for result in annotation["result"] if result["type"] not in NOT_PAINTED]
    drawn = {result.get("id") for result in results if result["type"] in SHAPES}
    beside = {result.get("id"): result["value"]["labels"] for result in results if result["type"] == LABELS}
    return [
        _labelled(result, beside.get(result.get("id"), [])) if result["type"] in SHAPES else result
        for result in results
        if result["type"] != LABELS or result.get("id") not in drawn
    ]


def _labelled(result: Task, labels: list[str]) -> Task:
    kind = result["type"] + LABELS
    return {**result, "type": kind, "value": {**result["value"], kind: labels}}


def _label(result: Task) -> str:
    """The region's label; "" for none."""
    labels = result["value"].get(result["type"]) or []
    if len(labels) > 1:
        raise ValueError(f"a region with the labels {labels}, where one is needed")
    return class_name(labels[0]) if labels else ""


def _photo_name(task: Task) -> str:
    photos = {}
    for key, value in task["data"].items():
        if isinstance(value, str):
            parts = urlsplit(value)
            path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
            if Path(path).suffix.lower() in PHOTO_SUFFIXES:
                photos[key] = plain_name(path)
    if not photos:
        raise ValueError(f"task {task.get('id')} names no photo")
    if len(set(photos.values())) > 1:
        # a tag is mostly called as the data that it shows
        shown = {result.get("to_name") for entry in task["annotations"] for result in entry["result"]}
        photos = {key: photo for key, photo in photos.items() if key in shown} or photos
        if len(set(photos.values())) > 1:
            raise ValueError(
                f"task {task.get('id')} shows {' and '.join(photos)}: which one is drawn on is not said"
            )
    return next(iter(photos.values()))


def _find_photo(root: Path, name: str) -> Path:
    folders = (root / "images", root, root / "upload")
    folder, slash, last = name.rpartition("/")
    found = find_file(folders, name)
    return found if isfile(found) else find_file(folders, folder + slash + UPLOAD_PREFIX.sub("", last))


def _regions(results: list[Task], size: Size, file: Path, *, photo: str) -> list[Region]:
    return [
        Region(
            _label(result),
            partial(_cover, result, size=size, file=file),
            f"region {result.get('id', number)} ({_label(result)}) of {photo}",
            _fault(result),
        )
        for number, result in enumerate(results, 1)
    ]


PERCENT = (100, 100)


def _fault(result: Task) -> str:
    value, kind = result["value"], result["type"]
    if not _label(result):
        return "it has no label"
    if kind == "brushlabels" and not value.get("rle"):
        return "its brush is empty"
    return outline_fault(value.get("points"), PERCENT) if kind == "polygonlabels" else ""


def _cover(result: Task, *, size: Size, file: Path) -> Window:
    value, kind = result["value"], result["type"]
    if result.get("image_rotation"):
        raise UserError(
            f"a photo turned by {result['image_rotation']} degrees in the tool", fix="turn back", file=file
        )
    # everything but the brush is in per cent of the photo's sides
    x_unit, y_unit = size[1] / 100, size[0] / 100
    if kind == "brushlabels":
        return Window(0, 0, brush_mask(value["rle"], size))
    if kind == "polygonlabels":
        return polygons.fill([[(x * x_unit, y * y_unit) for x, y in value["points"]]], size)
    if kind not in KINDS:
        raise no_area(file, kind, KINDS)
    x, y, degrees = value["x"] * x_unit, value["y"] * y_unit, value.get("rotation", 0)
    if kind == "ellipselabels":
        radii = value["radiusX"] * x_unit, value["radiusY"] * y_unit
        return polygons.fill([polygons.ellipse(x, y, *radii, degrees=degrees)], size)
    right, bottom = x + value["width"] * x_unit, y + value["height"] * y_unit
    ring = polygons.rectangle(x, y, right, bottom, degrees=degrees, about=[(x, y)])
    return polygons.fill([ring], size)
