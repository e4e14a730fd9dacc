"""A data set in the PASCAL VOC layout: photos, index masks, and lists of names.

    ROOT/JPEGImages/NAME.jpg (or another photo format)
    ROOT/SegmentationClass/NAME.png or ROOT/SegmentationClassAug/NAME.png (SBD, for train_aug)
    ROOT/ImageSets/Segmentation/SPLIT.txt, one NAME a line
    ROOT/classes.txt, optional: class names, one a line; without it VOC's 21

Masks hold class indices (palette or grey PNG); 255 is "ignore" (reference facts 5.1 and 5.2). Photos are
read as for prediction: upright, so a mask belongs to what a viewer shows.
"""

from __future__ import annotations

from pathlib import Path

from deeplab.data.layouts.masks import read_indices
from deeplab.data.layouts.splits import read_names
from deeplab.data.stored import StoredSplit, by_stem, pair, require_folder
from deeplab.errors import UserError
from deeplab.palettes import VOC_CLASSES

LOOKS_FOR = "JPEGImages/ and ImageSets/Segmentation/"
LABEL_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
LISTS = Path("ImageSets") / "Segmentation"


def recognise(root: Path) -> bool:
    """Whether `root` has VOC's folders, and no label map of colours (which is CVAT's)."""
    return (root / "JPEGImages").is_dir() and (root / LISTS).is_dir() and not (root / "labelmap.txt").exists()


def splits(root: Path) -> tuple[str, ...]:
    """Names of the lists."""
    return tuple(sorted(path.stem for path in (root / LISTS).glob("*.txt")))


def open_split(
    root: Path, split: str, *, labels: str | None = None, names: tuple[str, ...] | None = None
) -> StoredSplit:
    """Read the list and look for every file on it.

    Args:
        root: folder that holds JPEGImages, the masks' folder and ImageSets.
        split: name of the list, such as "train", "train_aug", "val".
        labels: the masks' folder; None takes SegmentationClass if every mask is there, else
            SegmentationClassAug.
        names: class names of the masks, by index; None takes classes.txt, else VOC's.

    Raises:
        UserError: a list or folder is missing, or the list is empty.
    """
    if names is None:
        names = read_names(root / "classes.txt") if (root / "classes.txt").is_file() else VOC_CLASSES
    listed = read_list(root, split)
    photos = require_folder(root / "JPEGImages")
    folder = require_folder(root / (labels or _folder_with_all(root, listed)))
    items, missing = pair(listed, by_stem(photos), by_stem(folder, (".png",)), folders=(photos, folder))
    return StoredSplit(classes=names, items=items, missing=missing, read=read_indices)


def read_list(root: Path, split: str) -> list[str]:
    """Names on ImageSets/Segmentation/`split`.txt.

    Raises:
        UserError: no such list (the message names those that exist), or an empty one.
    """
    path = root / LISTS / f"{split}.txt"
    if not path.is_file():
        found = ", ".join(splits(root)) or "none"
        raise UserError(f"{path} is missing; lists found there: {found}; fix: name one of them as the split")
    # the papers' own lists say /JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png
    return [Path(line.split()[0]).stem if "/" in line else line for line in read_names(path)]


def _folder_with_all(root: Path, names: list[str]) -> str:
    for folder in LABEL_FOLDERS:
        if (root / folder).is_dir() and by_stem(root / folder, (".png",)).keys() >= set(names):
            return folder
    # none is complete: the message about what is missing should be about one that exists
    return next((folder for folder in LABEL_FOLDERS if (root / folder).is_dir()), LABEL_FOLDERS[0])
