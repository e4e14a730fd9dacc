"""CamVid as SegNet's tutorial stores it: index PNGs, 11 classes, and 11 for void.

ROOT/{train,val,test}/NAME.png (or .jpg)
ROOT/{train,val,test}annot/NAME.png
"""

from __future__ import annotations

from pathlib import Path

from deeplab.data.layouts.masks import IndexMasks, table_of
from deeplab.data.layouts.splits import class_names
from deeplab.data.source import IGNORE_LABEL
from deeplab.data.stored import StoredSplit, by_stem, paired, require_folder

LOOKS_FOR = "train/ beside trainannot/ (or val/ beside valannot/)"
CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
VOID = 11


def recognise(root: Path) -> bool:
    """Whether a folder of photos has its annotations beside it."""
    return bool(splits(root))


def splits(root: Path) -> tuple[str, ...]:
    """The splits that have both folders."""
    both = ("train", "val", "test")
    return tuple(name for name in both if (root / name).is_dir() and (root / f"{name}annot").is_dir())


def survey(root: Path, split: str, *, names: tuple[str, ...] | None = None) -> StoredSplit:
    """All photos of the split.

    Args:
        root: folder that holds train/ and trainannot/.
        split: "train", "val" or "test".
        names: class names of the masks, by index; None takes classes.txt, else CamVid's. 11 stays void beside 11
            names.

    Raises:
        UserError: a folder is missing.
    """
    photos, masks = require_folder(root / split), require_folder(root / f"{split}annot")
    classes, origin = class_names(root, names, CAMVID_CLASSES, layout="camvid")
    ignored = {IGNORE_LABEL, VOID} if len(classes) == VOID else {IGNORE_LABEL}
    table = table_of({index: index for index in range(len(classes))}, ignored=frozenset(ignored))
    read = IndexMasks(table, f"0..{len(classes) - 1}, and {' or '.join(map(str, sorted(ignored)))} for void")
    return paired(by_stem(photos), by_stem(masks, (".png",)), classes=classes, origin=origin, read=read)
