"""SUIM: photos under water, with masks in eight colours.

    ROOT/train_val/images/NAME.jpg, ROOT/train_val/masks/NAME.bmp: split by lists or hash
    ROOT/TEST/images/NAME.jpg, ROOT/TEST/masks/NAME.bmp

Each colour is a number of three bits, red the highest. Source: the data set's own page (Islam et al. 2020).
"""

from __future__ import annotations

from pathlib import Path

from deeplab.data.joining import visible
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.masks import Painted
from deeplab.data.stored import StoredSplit, by_stem, paired, require_folder

LOOKS_FOR = "train_val/images/ and train_val/masks/*.bmp (or TEST/)"
TRAIN_VAL, TEST = "train_val", "TEST"
SUIM_CLASSES = (
    "background", "human divers", "aquatic plants and sea-grass", "wrecks and ruins", "robots",
    "reefs and invertebrates", "fish and vertebrates", "sea-floor and rocks",
)  # fmt: skip
COLOURS = {
    (255 * (index >> 2), 255 * (index >> 1 & 1), 255 * (index & 1)): index
    for index in range(len(SUIM_CLASSES))
}


def recognise(root: Path) -> bool:
    """Whether one of the folders has masks that are bitmaps."""
    return any(visible(root / folder / "masks", "*.bmp") for folder in (TRAIN_VAL, TEST))


def splits(root: Path) -> tuple[str, ...]:
    """What train_val is split into, and "test"."""
    first = by_name.available(root) if (root / TRAIN_VAL).is_dir() else ()
    return (*first, "test") if (root / TEST).is_dir() else first


def survey(root: Path, split: str) -> StoredSplit:
    """All photos of TEST, or those of train_val that a list or the hash of their names chooses.

    Raises:
        UserError: a folder is missing, or no such split.
    """
    folder = root / (TEST if split == "test" else TRAIN_VAL)
    photos, masks = (
        by_stem(require_folder(folder / "images")),
        by_stem(require_folder(folder / "masks"), (".bmp",)),
    )
    known = sorted(photos.files.keys() | masks.files.keys())
    names = None if split == "test" else by_name.choose(root, known, split)
    return paired(
        photos,
        masks._replace(ending=".bmp"),
        names,
        classes=SUIM_CLASSES,
        origin="layout suim",
        read=Painted(COLOURS, "SUIM's eight colours"),
    )
