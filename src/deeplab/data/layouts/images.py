"""Folders of one's own: photos, index masks of the same names, and a list of class names.

    ROOT/images/NAME.jpg, ROOT/masks/NAME.png, ROOT/classes.txt (one name a line, in the order of the values)

Also the other usual names of such folders in any case (`PHOTO_FOLDERS`, `MASK_FOLDERS`), train/ beside train_labels/,
and photos and masks in one folder, told apart by name (a.jpg with a_mask.png or a.png). A mask may have a word such as
_mask or _label at its name, where no mask has the very name.

Splits, whichever is there: ROOT/images/train + ROOT/masks/train; ROOT/train/images + ROOT/train/masks; lists
ROOT/train.txt and ROOT/val.txt; else by the names' hash (`deeplab.data.layouts.splits`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.masks import JPEG_SUFFIXES, index_masks
from deeplab.data.stored import Listing, StoredSplit, by_photo, listing, paired, pictures, require_folder
from deeplab.errors import UserError

LOOKS_FOR = (
    "images/ and masks/ (or labels/, annotations/), also inside train/ and val/, or a.jpg with a_mask.png"
)
PHOTO_FOLDERS = ("images", "image", "imgs", "img", "photos", "photo", "jpegimages", "pictures")
MASK_FOLDERS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot",
    "segmentationclass", "segmentation", "segmentations", "gt", "ground_truth", "targets",
)  # fmt: skip
BESIDE_ENDINGS = ("annot", "_labels", "_masks", "_mask", "_label", "_gt")
MASK_WORDS = ("_mask", "-mask", "_masks", "_label", "_labels", "_seg", "_gt")
WHOLE = "all"

Place = tuple[Path, Path]
"""Folders of photos and of masks; the same where both lie side by side."""


def recognise(root: Path) -> bool:
    """Whether photos and masks lie in such folders, or side by side."""
    return bool(_places(root))


def splits(root: Path) -> tuple[str, ...]:
    """Folders of splits, else lists, else "train" and "val"."""
    places = _places(root)
    return by_name.available(root) if WHOLE in places or not places else tuple(places)


def survey(
    root: Path,
    split: str,
    *,
    labels: str | None = None,
    names: tuple[str, ...] | None = None,
    values: tuple[int, ...] | None = None,
) -> StoredSplit:
    """The split's photos.

    Args:
        root: the folder.
        split: "train", "val", "test", "all", or the name of a list.
        labels: the masks' folder; None takes the first of the usual names.
        names: class names of the masks, by index; None takes classes.txt.
        values: stored value of each class; None where that is its index.

    Raises:
        UserError: the folders or the split are missing.
    """
    classes, origin = by_name.class_names(root, names, layout="images")
    places = _places(root, labels)
    if not places:
        raise UserError(f"{root} holds no {LOOKS_FOR}", fix="put photos into images/ and masks into masks/")
    own = next((places[name] for name in (split, _SPLITS.get(split, "")) if name in places), None)
    if own is None and WHOLE not in places:
        raise UserError(
            f"{root} has no split {split!r}; splits found: {', '.join(places)}", fix="name one of them"
        )
    photos, masks = _listings(own or places[WHOLE])
    known = sorted(photos.files.keys() | masks.files.keys())
    chosen = by_name.choose(root, known, split) if own is None or split == WHOLE else None
    read = index_masks(classes, values)
    return paired(photos, masks, chosen, classes=classes, origin=origin, read=read)


_SPLITS = {alias: name for name, others in by_name.ALIASES.items() for alias in (name, *others)}


def _places(root: Path, labels: str | None = None) -> dict[str, Place]:
    """The folders of each split, or of `WHOLE`; empty if nothing of the kind is there."""
    photos, masks = _two_folders(root, labels)
    if photos and masks:
        inside = {
            _SPLITS[name]: name for each in (photos, masks) for name in _subfolders(each) if name in _SPLITS
        }
        ordered = [split for split in by_name.ALIASES if split in inside]
        return {split: (_child(photos, split), _child(masks, split)) for split in ordered} or {
            WHOLE: (photos, masks)
        }
    folders = _subfolders(root)
    own = {_SPLITS[name]: folder for name, folder in folders.items() if name in _SPLITS}
    own = {split: own[split] for split in by_name.ALIASES if split in own}
    nested = {
        split: (photos, masks)
        for split, folder in own.items()
        for photos, masks in [_two_folders(folder, labels)]
        if photos and masks
    }
    if nested:
        return nested
    beside = {
        split: (folder, folders[folder.name.lower() + ending])
        for split, folder in own.items()
        for ending in BESIDE_ENDINGS
        if folder.name.lower() + ending in folders
    }
    if beside or labels:
        return beside
    return {split: (folder, folder) for split, folder in (own or {WHOLE: root}).items() if _has_both(folder)}


def _two_folders(root: Path, labels: str | None) -> tuple[Path, Path] | tuple[None, None]:
    folders = _subfolders(root)
    photos = next((folders[name] for name in PHOTO_FOLDERS if name in folders), None)
    masks = next((folders[name] for name in MASK_FOLDERS if name in folders), None)
    if photos is not None and labels is not None:
        return photos, require_folder(root / labels)
    if photos is None or masks is None or _holds_only_other_files(masks):
        return None, None
    return photos, masks


def _holds_only_other_files(folder: Path) -> bool:
    """Polygons, boxes or records rather than pictures: another format's labels."""
    others = (file.suffix.lower() in (".json", ".xml", ".txt") for file in folder.rglob("*"))
    return next(pictures(folder), None) is None and any(others)


def _has_both(folder: Path) -> bool:
    files = list(pictures(folder))
    stems = {file.with_suffix("") for file in files}
    return len(stems) < len(files) or any(_looks_like_mask(file) for file in files)


def _looks_like_mask(file: Path) -> bool:
    return file.stem.lower().endswith(MASK_WORDS)


def _subfolders(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {
        child.name.lower(): child
        for child in sorted(folder.iterdir())
        if child.is_dir() and child.name[0] != "."
    }


def _child(folder: Path, split: str) -> Path:
    """The subfolder of a split, under any of its names in any case; it may be missing."""
    folders = _subfolders(folder)
    return next(
        (folders[name] for name in (split, *by_name.ALIASES[split]) if name in folders), folder / split
    )


def _listings(place: Place) -> tuple[Listing, Listing]:
    """Photos, and masks by the names of their photos."""
    photo_folder, mask_folder = place
    if photo_folder == mask_folder:
        photo_files, mask_files = _told_apart(list(pictures(photo_folder)))
    else:
        photo_files, mask_files = list(pictures(photo_folder)), list(pictures(mask_folder))
    # of two masks of one name the lossless one
    lossless = {file.with_suffix("") for file in mask_files if file.suffix.lower() not in JPEG_SUFFIXES}
    lossy = [file for file in mask_files if file.suffix.lower() in JPEG_SUFFIXES]
    previews = {file: None for file in lossy if file.with_suffix("") in lossless}
    photos = listing(photo_folder, photo_files)
    masks = listing(mask_folder, (file for file in mask_files if file not in previews))
    return photos, by_photo(photos, masks._replace(double=(*masks.double, *previews)))


def _told_apart(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Photos and masks of one folder: masks by name, or the PNG beside a photo of another kind."""
    others = {file.with_suffix("") for file in files if file.suffix.lower() != ".png"}
    masks = [
        file
        for file in files
        if _looks_like_mask(file) or (file.suffix.lower() == ".png" and file.with_suffix("") in others)
    ]
    taken = set(masks)
    return [file for file in files if file not in taken], masks
