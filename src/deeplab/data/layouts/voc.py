"""A data set in the PASCAL VOC layout: photos, index masks, and lists of names.

    ROOT/JPEGImages/NAME.jpg (or another photo format)
    ROOT/SegmentationClass/NAME.png or ROOT/SegmentationClassAug/NAME.png (SBD, for train_aug)
    ROOT/ImageSets/Segmentation/SPLIT.txt, one NAME a line; without lists as `deeplab.data.layouts.splits`
    ROOT/classes.txt, optional: class names, one a line; without it VOC's 21

Masks hold class indices (palette or grey PNG); 255 is "ignore" (reference facts 5.1 and 5.2). Photos are
read as for prediction: upright, so a mask belongs to what a viewer shows.
"""

from __future__ import annotations

from pathlib import Path

from deeplab.data.joining import visible
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.masks import index_masks
from deeplab.data.stored import Listing, StoredSplit, by_photo, by_stem, paired, require_folder
from deeplab.errors import UserError
from deeplab.imaging.palettes import VOC_CLASSES

LOOKS_FOR = "JPEGImages/ and ImageSets/Segmentation/ or SegmentationClass/"
LABEL_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
LISTS = Path("ImageSets") / "Segmentation"


def recognise(root: Path) -> bool:
    """Whether `root` has VOC's folders, and no label map of colours (which is CVAT's)."""
    others = (LISTS, *LABEL_FOLDERS)
    own = (root / "JPEGImages").is_dir() and any((root / other).is_dir() for other in others)
    return own and not (root / "labelmap.txt").exists()


def splits(root: Path) -> tuple[str, ...]:
    """Names of the lists; without any, "train" and "val" by hash."""
    return tuple(path.stem for path in visible(root / LISTS, "*.txt")) or by_name.available(root)


def survey(
    root: Path,
    split: str,
    *,
    labels: str | None = None,
    names: tuple[str, ...] | None = None,
    values: tuple[int, ...] | None = None,
) -> StoredSplit:
    """Read the list and look for every file on it.

    Args:
        root: folder that holds JPEGImages, the masks' folder and ImageSets.
        split: name of the list, such as "train", "train_aug", "val".
        labels: the masks' folder; None takes SegmentationClass if every mask is there, else
            SegmentationClassAug.
        names: class names of the masks, by index; None takes classes.txt, else VOC's.
        values: stored value of each class; None where that is its index.

    Raises:
        UserError: a list or folder is missing.
    """
    classes, origin = by_name.class_names(root, names, VOC_CLASSES, layout="voc")
    photos = by_stem(require_folder(root / "JPEGImages"))
    if visible(root / LISTS, "*.txt"):
        listed = by_name.matched(list_path(root, split), list(photos.files))
    else:
        listed = by_name.choose(root, list(photos.files), split)
    masks = by_stem(require_folder(root / labels), (".png",)) if labels else _masks(root, photos, listed)
    read = index_masks(classes, values)
    return paired(photos, masks, listed, classes=classes, origin=origin, read=read)


def list_path(root: Path, split: str) -> Path:
    """ImageSets/Segmentation/`split`.txt, else a list elsewhere that `split` names.

    Raises:
        UserError: no such list; the message names those that exist.
    """
    path = root / LISTS / f"{split}.txt"
    path = path if path.is_file() else by_name.list_of(root, split) or path
    if not path.is_file():
        found = ", ".join(splits(root)) or "none"
        raise UserError(f"{path} is missing; lists found there: {found}", fix="name one of them as the split")
    return path


def _masks(root: Path, photos: Listing, names: list[str]) -> Listing:
    """The first folder that has all of them, else the first there is: what is missing should be about one."""
    there = [folder for name in LABEL_FOLDERS if (folder := root / name).is_dir()]
    listings = [by_photo(photos, by_stem(folder, (".png",))) for folder in there]
    whole = (masks for masks in listings if masks.files.keys() >= set(names))
    return next(whole, listings[0] if listings else Listing(require_folder(root / LABEL_FOLDERS[0]), {}))
