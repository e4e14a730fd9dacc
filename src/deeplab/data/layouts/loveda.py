"""LoveDA: aerial photos of towns and of the country, with index PNGs.

    ROOT/{Train,Val,Test}/{Urban,Rural}/images_png/NAME.png
    ROOT/{Train,Val}/{Urban,Rural}/masks_png/NAME.png

The files say 0 for no data and 1..7 for the classes; here 0 is ignored and the classes are 0..6. Source: the data set's
own page (Wang et al. 2021).
"""

from __future__ import annotations

from pathlib import Path

from deeplab.data.layouts.masks import IndexMasks, table_of
from deeplab.data.stored import Listing, StoredSplit, by_stem, paired, require_folder

LOOKS_FOR = "Train/Urban/masks_png/ or Rural/ (or Val/) beside images_png/"
AREAS = ("Urban", "Rural")
SPLITS = {"train": "Train", "val": "Val", "test": "Test"}
LOVEDA_CLASSES = ("background", "building", "road", "water", "barren", "forest", "agriculture")
NO_DATA = 0

FROM_FILE = table_of({index + 1: index for index in range(len(LOVEDA_CLASSES))}, ignored=frozenset({NO_DATA}))


def recognise(root: Path) -> bool:
    """Whether a split has the masks of an area."""
    return any((root / split / area / "masks_png").is_dir() for split in SPLITS.values() for area in AREAS)


def splits(root: Path) -> tuple[str, ...]:
    """The folders that are there."""
    return tuple(split for split, folder in SPLITS.items() if (root / folder).is_dir())


def survey(root: Path, split: str) -> StoredSplit:
    """All photos of both areas, by names such as Urban/1366.

    Raises:
        UserError: a folder is missing.
    """
    folder = require_folder(root / SPLITS.get(split, split))
    photos, masks = (_areas(folder, kind) for kind in ("images_png", "masks_png"))
    read = IndexMasks(FROM_FILE, f"{NO_DATA} (no data) and 1..{len(LOVEDA_CLASSES)}")
    return paired(photos, masks, classes=LOVEDA_CLASSES, origin="layout loveda", read=read)


def _areas(folder: Path, kind: str) -> Listing:
    found = {area: by_stem(folder / area / kind, (".png",)) for area in AREAS}
    files = {f"{area}/{name}": file for area, listed in found.items() for name, file in listed.files.items()}
    return Listing(folder, files, tuple(file for listed in found.values() for file in listed.double))
