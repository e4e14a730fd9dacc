"""Where a data set in folders keeps its photos and masks, and what its stored values mean.

Broken data sets must be found too, so this only looks at folder names and never opens a picture, and is content
with less than `deeplab.data.layouts` wants where a list or a folder may be what is missing. What is a layout's
own mark, and what its stored values mean, is said there alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deeplab.data.layouts import ade20k, camvid, cityscapes
from deeplab.data.layouts.masks import NO_CLASS
from deeplab.data.source import IGNORE_LABEL
from deeplab.imaging.photos import PHOTO_SUFFIXES
from deeplab.palettes import CITYSCAPES_CLASSES, VOC_CLASSES

REPORT = "check.json"

SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
WHOLE = "all"
_PHOTO_FOLDERS = ("images", "image", "imgs", "img", "photos", "photo", "jpegimages", "pictures")
_MASK_FOLDERS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot",
    "segmentationclass", "segmentation", "segmentations", "gt", "ground_truth", "targets",
)  # fmt: skip
_SPLIT_MASK_ENDINGS = ("annot", "_labels", "_masks", "_mask", "_label", "_gt")


@dataclass(frozen=True)
class Place:
    """The two folders of a split; `photos` and `masks` are the same folder where files lie side by side."""

    split: str
    photos: Path
    masks: Path


@dataclass(frozen=True)
class Layout:
    """A kind of data set and its folders.

    Attributes:
        name: as `--layout` takes it.
        places: one per split, or one for the whole.
        photo_ending: part of a photo's stem that is not its name.
        mask_ending: part of a mask's stem that is not its name; other files are no masks.
        classes: names that the layout stands for; empty if it says nothing.
        decode: class of each stored value 0..255, where the two differ; 255 is ignored.
        lists: folder with lists of names, one a split; None if folders make the splits.
    """

    name: str
    places: tuple[Place, ...]
    photo_ending: str = ""
    mask_ending: str = ""
    classes: tuple[str, ...] = ()
    decode: tuple[int, ...] | None = None
    lists: Path | None = None


def find_layout(root: Path, *, layout: str = "auto") -> Layout | None:
    """The first layout whose folders are there; None if none fits.

    Args:
        root: the data set's folder.
        layout: auto, or a key of `LAYOUTS`.
    """
    tried = LAYOUTS.values() if layout == "auto" else [LAYOUTS[layout]]
    return next((found for find in tried if (found := find(root)) is not None), None)


def pictures(folder: Path) -> Iterator[Path]:
    """Picture files in a folder and below, sorted, without hidden ones and the doctor's own.

    A folder that is missing has none.
    """
    for parent, folders, names in os.walk(folder):
        if REPORT in names:
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES:
                yield Path(parent, name)


def _voc(root: Path) -> Layout | None:
    aug, plain = root / "SegmentationClassAug", root / "SegmentationClass"
    lists = root / "ImageSets" / "Segmentation"
    if not (root / "JPEGImages").is_dir() or not (aug.is_dir() or plain.is_dir()):
        return None
    has_aug_list = any((lists / f"{name}.txt").is_file() for name in ("trainaug", "train_aug"))
    masks = aug if aug.is_dir() and (has_aug_list or not plain.is_dir()) else plain
    places = (Place(WHOLE, root / "JPEGImages", masks),)
    return Layout("voc", places, classes=VOC_CLASSES, lists=lists)


def _cityscapes(root: Path) -> Layout | None:
    if not cityscapes.recognise(root):
        return None
    kind = "gtFine" if (root / "gtFine").is_dir() else "gtCoarse"
    photos, masks = root / "leftImg8bit", root / kind
    label_ids = any(masks.rglob(f"*_{kind}_labelIds.png"))
    decode = tuple(IGNORE_LABEL if train == NO_CLASS else train for train in cityscapes.TO_TRAIN_IDS)
    return Layout(
        "cityscapes",
        _places_by_split(photos, masks),
        photo_ending=cityscapes.PHOTO_END,
        mask_ending=f"_{kind}_labelIds" if label_ids else f"_{kind}_labelTrainIds",
        classes=CITYSCAPES_CLASSES,
        decode=decode if label_ids else None,
    )


def _ade20k(root: Path) -> Layout | None:
    # one's own data in such folders are not numbered as the benchmark's are
    if not ade20k.recognise(root):
        return None
    # stored: 0 for "other", and class k as k + 1
    decode = (IGNORE_LABEL, *range(255))
    places = _places_by_split(root / "images", root / "annotations")
    return Layout("ade20k", places, classes=ade20k.ADE20K_CLASSES, decode=decode)


def _camvid(root: Path) -> Layout | None:
    places = _split_beside_masks(root, endings=("annot",))
    if not places:
        return None
    decode = tuple(IGNORE_LABEL if value == camvid.VOID else value for value in range(256))
    return Layout("camvid", places, classes=camvid.CAMVID_CLASSES, decode=decode)


def _images(root: Path) -> Layout | None:
    photos, masks = _photo_and_mask_folder(root)
    if photos and masks:
        return Layout("images", _places_by_split(photos, masks), lists=root)
    places = []
    for folder in _subfolders(root).values():
        photos, masks = _photo_and_mask_folder(folder)
        if folder.name.lower() in SPLITS and photos and masks:
            places.append(Place(SPLITS[folder.name.lower()], photos, masks))
    places = places or list(_split_beside_masks(root, endings=_SPLIT_MASK_ENDINGS))
    return Layout("images", tuple(places)) if places else None


def _side_by_side(root: Path) -> Layout | None:
    """Photos and masks in one folder, told apart by name, such as a.jpg with a.png or a_mask.png."""
    splits = [(SPLITS[name], folder) for name, folder in _subfolders(root).items() if name in SPLITS]
    places = [Place(split, folder, folder) for split, folder in splits or [(WHOLE, root)]]
    found = tuple(place for place in places if _has_both(place.photos))
    return Layout("beside", found, lists=root) if found else None


def _has_both(folder: Path) -> bool:
    files = list(pictures(folder))
    stems = {file.with_suffix("") for file in files}
    return len(stems) < len(files) or any(looks_like_mask(file.stem) for file in files)


def looks_like_mask(stem: str) -> bool:
    """Whether a file name says that the file is a mask."""
    return stem.lower().endswith(("_mask", "-mask", "_masks", "_label", "_labels", "_seg", "_gt"))


def _places_by_split(photos: Path, masks: Path) -> tuple[Place, ...]:
    """A place for each split among the subfolders of both; without any, the whole."""
    by_split = {
        SPLITS[name]: name for folder in (photos, masks) for name in _subfolders(folder) if name in SPLITS
    }
    if not by_split:
        return (Place(WHOLE, photos, masks),)
    return tuple(Place(split, _child(photos, name), _child(masks, name)) for split, name in by_split.items())


def _split_beside_masks(root: Path, *, endings: tuple[str, ...]) -> tuple[Place, ...]:
    """train/ beside trainannot/, train_labels/ and the like."""
    folders = _subfolders(root)
    return tuple(
        Place(SPLITS[name], folder, folders[name + ending])
        for name, folder in folders.items()
        for ending in endings
        if name in SPLITS and name + ending in folders
    )


def _photo_and_mask_folder(root: Path) -> tuple[Path | None, Path | None]:
    folders = _subfolders(root)
    photos = next((folders[name] for name in _PHOTO_FOLDERS if name in folders), None)
    masks = next((folders[name] for name in _MASK_FOLDERS if name in folders), None)
    if masks is not None and _holds_only_other_files(masks):
        return photos, None
    return photos, masks


def _holds_only_other_files(folder: Path) -> bool:
    """Polygons, boxes or records rather than pictures: another format's labels."""
    others = any(file.suffix.lower() in (".json", ".xml", ".txt") for file in folder.rglob("*"))
    return others and next(pictures(folder), None) is None


def _subfolders(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {
        child.name.lower(): child
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }


def _child(folder: Path, name: str) -> Path:
    """The subfolder of that name, or of the same split's other name, in any case; it may be missing."""
    folders = _subfolders(folder)
    same = [name, *(other for other in SPLITS if SPLITS[other] == SPLITS[name])]
    return next((folders[other] for other in same if other in folders), folder / name)


# In the order in which they are tried: the more particular first.
LAYOUTS = {
    "voc": _voc,
    "cityscapes": _cityscapes,
    "ade20k": _ade20k,
    "camvid": _camvid,
    "images": _images,
    "beside": _side_by_side,
}
