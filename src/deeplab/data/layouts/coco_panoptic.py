"""COCO's panoptic format as semantic labels: every segment by its category, things and stuff alike.

    ROOT/annotations/panoptic_train2017.json with ROOT/annotations/panoptic_train2017/NAME.png
    ROOT/train2017/NAME.jpg or ROOT/images/train2017/NAME.jpg

Classes: the categories in the order of their ids. Pixels of id 0 are void, and ignored; crowds are of their category.
Source: COCO's data format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.data.joining import find_file, plain_name, same_id, sample_names, visible
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.coco import file_for, photo_folder, splits_of
from deeplab.data.layouts.masks import NO_CLASS, classes_of
from deeplab.data.layouts.painting import as_written, class_name, mentions, read_json
from deeplab.data.source import ignore_label_of, label_type
from deeplab.data.stored import Item, StoredSplit, joined, left_over
from deeplab.errors import UserError
from deeplab.imaging.pictures import opened_picture, strips
from deeplab.system.reading import foreign

LOOKS_FOR = (
    'a JSON with "segments_info" here or in annotations/, and a folder of its name with PNGs (COCO panoptic)'
)
KEYS = (b'"images"', b'"segments_info"', b'"categories"')

Id = int | str


@dataclass(frozen=True)
class _Segments:
    """Reads PNGs of ids; by sample the class of each id, of `count` classes."""

    classes: dict[str, dict[int, int]]
    count: int

    def __call__(self, item: Item) -> np.ndarray:
        colours, table = _read_colours(item.mask), {0: ignore_label_of(self.count), **self.classes[item.name]}
        height, width, _ = colours.shape
        labels = np.empty((height, width), label_type(self.count))
        for start, end in strips(width, height):
            ids = _ids(colours[start:end])
            found = classes_of(ids, table)
            if found.min() == NO_CLASS:
                row, column = np.argwhere(found == NO_CLASS)[0]
                raise UserError(
                    f"id {ids[row, column]} at row {start + row}, column {column} is none of its segments_info",
                    fix="list it there, or write 0 for void",
                    file=item.mask,
                )
            labels[start:end] = found
        return labels


def recognise(root: Path) -> bool:
    """Whether there is such a file."""
    return bool(_files(root))


def splits(root: Path) -> tuple[str, ...]:
    """The splits that have a file of their own, else lists, else "train" and "val"."""
    return splits_of(_files(root), root)


def survey(root: Path, split: str) -> StoredSplit:
    """The photos of the split's file, or of a list or hash split of the only one.

    Raises:
        UserError: no such split, or the file is of another form.
    """
    path, own = file_for(_files(root), root, split)
    content = read_json(path)
    with as_written(path):
        images: list[dict[str, Any]] = [
            {"id": same_id(image["id"]), "file_name": plain_name(image["file_name"])}
            for image in content["images"]
        ]
        names = {same_id(entry["id"]): class_name(entry["name"]) for entry in content["categories"]}
        annotations = {same_id(entry["image_id"]): entry for entry in content["annotations"]}
        if len(names) < len(content["categories"]) or len(annotations) < len(content["annotations"]):
            raise UserError(
                "two categories have one id, or two annotations one image_id",
                fix="keep one of them",
                file=path,
            )
        classes, stray = _classes(path, names, annotations, {image["id"] for image in images})
    entries = dict(zip(sample_names(image["file_name"] for image in images), images, strict=True))
    ids = [image["id"] for image in images]
    if len(entries) < len(images) or len(set(ids)) < len(ids):
        raise UserError("two images have one id or one name", fix="give each its own", file=path)
    chosen = list(entries) if own else by_name.choose(root, list(entries), split, hashed=splits(root))
    folder = photo_folder(root, path, split, images)
    photos = {name: find_file((folder,), image["file_name"]) for name, image in entries.items()}
    with as_written(path):
        notes = {
            name: find_file((path.with_suffix(""),), annotations[image["id"]]["file_name"])
            for name, image in entries.items()
            if image["id"] in annotations
        }
    items, missing = joined(chosen, photos, notes)
    by_sample = {item.name: classes[entries[item.name]["id"]] for item in items}
    return StoredSplit(
        classes=tuple(names[number] for number in _ordered(names)),
        origin=path.name,
        items=tuple(item for item in items if isfile(item.mask)),
        missing=(
            *missing,
            *(f"{item.mask}, which {path} asks for" for item in items if not isfile(item.mask)),
        ),
        stray=stray,
        unannotated=left_over((item.photo for item in items), (image["file_name"] for image in images)),
        unlisted=frozenset(entries).difference(chosen),
        read=_Segments(by_sample, len(names)),
    )


def _files(root: Path) -> list[Path]:
    found = [path for place in (root, root / "annotations") for path in visible(place, "*.json")]
    return [path for path in found if path.with_suffix("").is_dir() and mentions(path, *KEYS)]


def _ordered(names: Mapping[Id, str]) -> list[Id]:
    return sorted(names, key=lambda number: (isinstance(number, str), number))


def _classes(
    path: Path, names: Mapping[Id, str], annotations: Mapping[Id, dict[str, Any]], images: set[Id]
) -> tuple[dict[Id, dict[int, int]], tuple[str, ...]]:
    """The class of each segment's id by image, and what is of an image or category that is not listed."""
    index_of = {number: index for index, number in enumerate(_ordered(names))}
    classes: dict[Id, dict[int, int]] = {}
    stray = []
    for image, entry in annotations.items():
        file = entry["file_name"]
        if image not in images:
            stray.append(f"annotation {file} of {path}: image_id {entry['image_id']!r}")
        table = classes[image] = {}
        for segment in entry["segments_info"]:
            number, category = int(segment["id"]), same_id(segment["category_id"])
            if number in table:
                raise UserError(
                    f"{file} has two segments of the id {number}", fix="keep one of them", file=path
                )
            if category in index_of:
                table[number] = index_of[category]
            else:
                stray.append(f"segment {number} of {file} in {path}: category_id {category!r}")
    return classes, tuple(stray)


def read_ids(path: Path) -> np.ndarray:
    """int64 [H, W]: the segment ids of a PNG.

    Raises:
        UserError: the file is missing, no picture, or has no three colours.
    """
    colours = _read_colours(path)
    height, width, _ = colours.shape
    ids = np.empty((height, width), np.int64)
    for start, end in strips(width, height):
        ids[start:end] = _ids(colours[start:end])
    return ids


def _read_colours(path: Path) -> np.ndarray:
    with foreign(path, "cannot be read as a picture"), opened_picture(path) as image:
        mode, colours = image.mode, np.asarray(image)
    if mode not in ("RGB", "RGBA"):
        raise UserError(
            f"is of mode {mode}",
            allowed="RGB, where the id is R + 256 G + 65536 B",
            fix="write the ids as colours",
            file=path,
        )
    return colours


def _ids(colours: np.ndarray) -> np.ndarray:
    return colours[..., :3].astype(np.int64) @ np.array([1, 256, 256**2])
