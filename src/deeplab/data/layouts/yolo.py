"""YOLO segmentation: a text file of outlines for each photo.

    ROOT/data.yaml: names (a list, or a table by number) and the places of train, val and test
    ROOT/images/train/NAME.jpg and ROOT/labels/train/NAME.txt, or ROOT/train/images/ and ROOT/train/labels/

A line is a class's number and the outline's corners, x y x y ..., as shares of the upright photo's width and height.
Four numbers behind the class are a box, which is no outline. A photo without a text file is background; smaller objects
lie on top. Classes: background, then the names. Source: Ultralytics' documentation of its data sets.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from os.path import isfile
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
    outline_fault,
    unpainted,
)
from deeplab.data.stored import Item, StoredSplit, joined, pictures
from deeplab.data.upright import stored
from deeplab.errors import UserError
from deeplab.system.reading import LARGEST_TEXT, beginning, foreign, read_text
from deeplab.system.yaml_settings import parse_yaml

LOOKS_FOR = "data.yaml with names, and labels/ with text files (YOLO segmentation)"
PHOTOS, LABELS = "images", "labels"
BOX = 4
BOX_ONLY = "it is a box, no outline"
# of numbers written with few digits
ROUNDING = 0.01

Line = tuple[int, int, list[float]]
"""Its number, the class's number, and the coordinates."""


@dataclass(frozen=True)
class _Pictures:
    """Finds an item's regions; an item whose two files are one has no text file."""

    names: dict[int, str]

    def __call__(self, item: Item) -> Picture:
        size = stored(item.photo).upright
        return Picture(size, [] if item.mask == item.photo else _regions(item.mask, self.names, size))


def recognise(root: Path) -> bool:
    """Whether there is such a description, and a text file beside photos or in a folder of labels."""
    return bool(_described(root))


def splits(root: Path) -> tuple[str, ...]:
    """The splits that the description names."""
    content = _description(root)[1]
    return tuple(split for split in ("train", "val", "test") if content.get(split))


def survey(root: Path, split: str) -> StoredSplit:
    """The photos of a split.

    Raises:
        UserError: no such split, or the description or a text file is of another form.
    """
    path, content = _description(root)
    names = _names(path, content)
    folders, photos = _photos(root, path, content, split)
    entries = dict(zip(sample_names(plain_name(file) for file in photos), photos.values(), strict=True))
    notes = {name: _note(photo) for name, photo in entries.items()}
    items, missing = joined(entries, entries, notes)
    shared = Counter(photo.with_suffix("") for photo in photos.values())
    # of a.jpg and a.png no one knows which of them a.txt belongs to
    double = [
        item.photo for item in items if item.mask != item.photo and shared[item.photo.with_suffix("")] > 1
    ]
    items = tuple(item for item in items if item.photo not in double)
    texts = {file for folder in folders for file in visible(_labels_of(folder), "**/*.txt")}
    alone = sorted(texts.difference(notes.values()))
    bad, stray, drawn = list[str](), list[str](), 0
    for item in items:
        if item.mask != item.photo:
            regions = _regions(item.mask, names, (0, 0))
            bad += unpainted((region for region in regions if region.name), item.mask)
            stray += [f"{region.place} of {item.mask}" for region in regions if not region.name]
            drawn += sum(not region.fault for region in regions)
    if bad and not drawn:
        what = "has boxes, no segmentation" if BOX_ONLY in bad[0] else "has no usable outline"
        raise UserError(f"{what} (first: {bad[0]})", fix="export outlines for segmentation", file=path)
    classes = ClassList.of(names.values())
    return StoredSplit(
        classes=classes.classes,
        origin=path.name,
        items=items,
        missing=(
            *missing,
            *(f"photo of {file}" for file in alone),
            *(f"labels of {photo} (several photos differ by their suffix alone)" for photo in double),
        ),
        double=tuple(double),
        stray=tuple(stray),
        bad=tuple(bad),
        read=Painter(_Pictures(names), classes, largest_first=True),
    )


def _described(root: Path) -> list[Path]:
    texts = (f"{LABELS}/*.txt", f"{LABELS}/*/*.txt", f"*/{LABELS}/*.txt")
    if not any(visible(root, pattern) for pattern in texts):
        return []
    return [
        path
        for end in ("yaml", "yml")
        for path in visible(root, f"*.{end}")
        if b"names" in beginning(path, LARGEST_TEXT)
    ]


def _description(root: Path) -> tuple[Path, dict[str, Any]]:
    found = _described(root)
    if not found:
        raise UserError(f"{root} holds no {LOOKS_FOR}", fix="name the folder of data.yaml")
    path = by_name.the_only(found)
    with foreign(path, "cannot be read as YAML", fix="correct it"):
        content = parse_yaml(read_text(path))
    if not isinstance(content, dict) or not content.get("names"):
        raise UserError("names no class", fix="write names: [cat, dog]", file=path)
    return path, content


def _names(path: Path, content: dict[str, Any]) -> dict[int, str]:
    listed = content["names"]
    with as_written(path):
        table = listed if isinstance(listed, dict) else dict(enumerate(listed))
        names = {int(number): class_name(name) for number, name in sorted(table.items())}
    if len(set(names.values())) < len(names) or "" in names.values():
        raise UserError(
            "a class is listed twice, or has no name", fix="give each a name of its own", file=path
        )
    return names


def _photos(
    root: Path, path: Path, content: dict[str, Any], split: str
) -> tuple[list[Path], dict[str, Path]]:
    """The split's folders, and its photos by their path below the folder, or as a list has them."""
    key = split if content.get(split) else {"validation": "val", "valid": "val"}.get(split, split)
    named = content.get(key)
    if not named:
        found = ", ".join(splits(root)) or "none"
        raise UserError(f"has no split {split!r}; splits found: {found}", fix="name one of them", file=path)
    places = [named] if isinstance(named, str) else named
    if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
        raise UserError(
            f"{key} is {named!r}",
            allowed="a folder, a list file, or a list of them",
            fix="correct it",
            file=path,
        )
    folders, photos = list[Path](), dict[str, Path]()
    for place in places:
        # written for another machine, or from another folder
        tried = [plain_name(str(content.get("path") or "")) + "/" + plain_name(place), place, key]
        listed = find_file((root,), place)
        folder = next((here for each in tried if (here := _folder(root, each)) is not None), None)
        if listed.suffix == ".txt" and isfile(listed):
            photos |= {name: find_file((root,), name) for name in by_name.read_names(listed)}
        elif folder is not None:
            folders.append(folder)
            photos |= {file.relative_to(folder).as_posix(): file for file in pictures(folder)}
        else:
            raise UserError(f"{place}, which {path} names for {key}, is missing", fix=f"put it into {root}")
    return folders, photos


def _folder(root: Path, name: str) -> Path | None:
    """The folder of photos by as many of the last parts of its path as there are in `root`."""
    parts = [part for part in plain_name(name).split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        for folder in (root.joinpath(*parts[start:], PHOTOS), root.joinpath(*parts[start:])):
            if folder.is_dir():
                return folder
    return None


def _labels_of(folder: Path) -> Path:
    """The last part called images is labels."""
    parts = list(folder.parts)
    places = [place for place, part in enumerate(parts) if part.lower() == PHOTOS]
    if places:
        parts[places[-1]] = LABELS
    return Path(*parts)


def _note(photo: Path) -> Path:
    """The photo's text file, or the photo itself where it has none."""
    found = find_file((_labels_of(photo.parent),), f"{photo.stem}.txt")
    return found if found.is_file() else photo


def _regions(path: Path, names: dict[int, str], size: tuple[int, int]) -> list[Region]:
    """Of a text file; a region without a name is of a class that is not listed."""
    return [
        Region(
            names.get(index, ""),
            partial(_cover, shares, size),
            f"line {number} (class {index})",
            _fault(shares),
        )
        for number, index, shares in _lines(path)
    ]


def _fault(shares: list[float]) -> str:
    if len(shares) == BOX:
        return BOX_ONLY
    if min(shares) < -ROUNDING or max(shares) > 1 + ROUNDING:
        return "its points are no shares of the photo's sides, 0 to 1"
    return outline_fault(_corners(shares))


def _lines(path: Path) -> Iterator[Line]:
    for number, line in enumerate(by_name.read_names(path), 1):
        try:
            index, *shares = (float(word) for word in line.split())
            if (
                not index.is_integer()
                or len(shares) < BOX
                or len(shares) % 2
                or not all(map(math.isfinite, shares))
            ):
                raise ValueError(line)
        except ValueError:
            raise UserError(
                f"line {number} is not a class's number and pairs of x and y",
                fix="export it again",
                file=path,
            ) from None
        yield number, int(index), shares


def _corners(shares: list[float]) -> list[list[float]]:
    return [shares[at : at + 2] for at in range(0, len(shares), 2)]


def _cover(shares: list[float], size: tuple[int, int]) -> polygons.Window:
    return polygons.fill([np.array(_corners(shares)) * (size[1], size[0])], size)
