"""A plain folder of one's own: photos, index masks of the same names, and a list of class names.

    ROOT/images/NAME.jpg, ROOT/masks/NAME.png, ROOT/classes.txt (one name a line, in the order of the values)

Splits, whichever is there: ROOT/images/train + ROOT/masks/train; ROOT/train/images + ROOT/train/masks; lists
ROOT/train.txt and ROOT/val.txt; else by the names' hash (`deeplab.data.layouts.splits`).
"""

from __future__ import annotations

from pathlib import Path

from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.masks import read_indices
from deeplab.data.stored import StoredSplit, by_stem, pair, require_folder
from deeplab.errors import UserError

LOOKS_FOR = "images/ and masks/ (or labels/, annotations/), also inside train/ and val/"
PHOTO_FOLDER = "images"
MASK_FOLDERS = ("masks", "labels", "annotations")
MASK_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff")


def recognise(root: Path) -> bool:
    """Whether photos and masks lie in such folders, here or in the training split's folder."""
    train = by_name.split_folder(root, "train")
    return any(
        (folder / PHOTO_FOLDER).is_dir() and any((folder / name).is_dir() for name in MASK_FOLDERS)
        for folder in (root, train)
        if folder is not None
    )


def splits(root: Path) -> tuple[str, ...]:
    """Folders of splits, else lists, else "train" and "val"."""
    usual = ("train", "val", "test")
    inside = tuple(name for name in usual if by_name.split_folder(root / PHOTO_FOLDER, name))
    outside = tuple(name for name in usual if by_name.split_folder(root, name))
    return inside or outside or by_name.available(root)


def open_split(
    root: Path, split: str, *, labels: str | None = None, names: tuple[str, ...] | None = None
) -> StoredSplit:
    """The split's photos.

    Args:
        root: the folder.
        split: "train", "val", "test", "all", or the name of a list.
        labels: the masks' folder; None takes masks, labels or annotations.
        names: class names of the masks, by index; None takes classes.txt.

    Raises:
        UserError: a folder, classes.txt or the split is missing.
    """
    classes = names or _class_names(root)
    outside = by_name.split_folder(root, split)
    base = outside if outside and (outside / PHOTO_FOLDER).is_dir() else root
    photos, masks = require_folder(base / PHOTO_FOLDER), _mask_folder(base, labels)
    inside = by_name.split_folder(photos, split)
    if inside is not None:
        photos, masks = inside, require_folder(by_name.split_folder(masks, split) or masks / inside.name)
    photo_files, mask_files = by_stem(photos), by_stem(masks, MASK_SUFFIXES)
    known = sorted(photo_files.keys() | mask_files.keys())
    chosen = known if inside or base != root else by_name.choose(root, known, split)
    items, missing = pair(chosen, photo_files, mask_files, folders=(photos, masks))
    return StoredSplit(classes=classes, items=items, missing=missing, read=read_indices)


def _mask_folder(base: Path, labels: str | None) -> Path:
    if labels is not None:
        return require_folder(base / labels)
    return require_folder(
        next((base / name for name in MASK_FOLDERS if (base / name).is_dir()), base / MASK_FOLDERS[0])
    )


def _class_names(root: Path) -> tuple[str, ...]:
    path = root / "classes.txt"
    if not path.is_file():
        raise UserError(
            f"{path} is missing, so nothing says what the values in the masks mean; fix: write one class name "
            "a line, value 0 first (often background), or give the names (data.names=[background, cat])"
        )
    return by_name.read_names(path)
