"""The full ADE20K, whose segmentations name some 3,700 objects: more than a model has, so classes are to be chosen.

    ROOT/images/ADE/{training,validation}/.../NAME.jpg, NAME_seg.png and NAME.json (2021; before it without ADE/)
    ROOT/objects.txt, a name a line; without it names are read from the JSONs

A pixel's object is R / 10 * 256 + G, counted from 1; 0 is none, and ignored. Parts are not read, nor is the index, a
pickle. Source: the data set's own page.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from deeplab.data.joining import visible
from deeplab.data.layouts.masks import read_colours
from deeplab.data.layouts.painting import as_written, class_name, read_json
from deeplab.data.layouts.splits import ALIASES, read_names
from deeplab.data.source import ignore_label_of, label_type
from deeplab.data.stored import Item, StoredSplit, listing, paired, require_folder
from deeplab.errors import UserError

LOOKS_FOR = "images/ADE/training/ or images/training/ with folders of NAME_seg.png (the full ADE20K)"
FOLDERS = ("training", "validation")
OBJECTS, ENDING = "objects.txt", "_seg"
STEP = 10
LARGEST = 255 // STEP * 256 + 255
"""What R and G can say."""


@dataclass(frozen=True)
class _Objects:
    """Reads segmentations of `count` objects."""

    count: int

    def __call__(self, item: Item) -> np.ndarray:
        """uint8 [H, W], uint16 of more objects than 255."""
        colours = read_colours(item.mask).astype(np.int32)
        objects = colours[..., 0] // STEP * 256 + colours[..., 1]
        wrong = (colours[..., 0] % STEP != 0) | (objects > self.count)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise UserError(
                f"colour {tuple(colours[row, column].tolist())} at row {row}, column {column} is no object",
                allowed=f"R / 10 * 256 + G up to {self.count}",
                fix="download the file again",
                file=item.mask,
            )
        return np.where(objects == 0, ignore_label_of(self.count), objects - 1).astype(label_type(self.count))


def recognise(root: Path) -> bool:
    """Whether there are segmentations in folders of scenes."""
    return any(
        next(folder.glob(f"{depth}*{ENDING}.png"), None)
        for name in FOLDERS
        if (folder := _folder(root, name))
        for depth in ("*/", "*/*/")
    )


def splits(root: Path) -> tuple[str, ...]:
    """ "train" and "val", as far as their folders are there."""
    return tuple(
        split for split, folder in zip(("train", "val"), FOLDERS, strict=True) if _folder(root, folder)
    )


def survey(root: Path, split: str) -> StoredSplit:
    """All photos of the split: "train" or "training", "val" or "validation".

    Raises:
        UserError: a folder is missing, or nothing names the objects.
    """
    name = next((name for name in ALIASES.get(split, ()) if name in FOLDERS), split)
    folder = require_folder(_folder(root, name) or root / "images" / "ADE" / name)
    photos = listing(folder, visible(folder, "**/*.jpg"), flat=True)
    masks = listing(folder, visible(folder, f"**/*{ENDING}.png"), ending=ENDING, flat=True)
    classes, origin = _names(root)
    return paired(
        photos,
        masks._replace(ending=f"{ENDING}.png"),
        classes=classes,
        origin=origin,
        read=_Objects(len(classes)),
    )


def _folder(root: Path, name: str) -> Path | None:
    places = (root / "images" / "ADE" / name, root / "images" / name)
    return next((place for place in places if place.is_dir()), None)


@lru_cache(maxsize=4)
def _names(root: Path) -> tuple[tuple[str, ...], str]:
    """Names of the objects in their order, each another, and where they are from."""
    if (root / OBJECTS).is_file():
        names, origin = list(read_names(root / OBJECTS)), OBJECTS
    else:
        found: dict[int, str] = {}
        for folder in (folder for name in FOLDERS if (folder := _folder(root, name))):
            for path in visible(folder, "**/*.json"):
                with as_written(path):
                    for entry in read_json(path)["annotation"]["object"]:
                        found.setdefault(int(entry["name_ndx"]), class_name(entry["name"]))
                    if min(found, default=1) < 1 or max(found, default=1) > LARGEST:
                        raise UserError(
                            "an object's name_ndx is no number of one", allowed=f"1..{LARGEST}", file=path
                        )
        if not found:
            raise UserError(
                "nothing names the objects", fix=f"unpack {OBJECTS} or the photos' JSONs, too", file=root
            )
        names, origin = [found.get(number, "") for number in range(1, max(found) + 1)], "the photos' JSONs"
    shared = Counter(names)
    own = (
        name if name and shared[name] == 1 else f"{name} {number}".strip()
        for number, name in enumerate(names, 1)
    )
    return tuple(own), origin
