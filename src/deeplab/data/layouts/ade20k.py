"""ADE20K, the scene parsing benchmark's 150 classes (ADEChallengeData2016).

    ROOT/images/{training,validation}/NAME.jpg
    ROOT/annotations/{training,validation}/NAME.png

The files say 0 for "other" and 1..150 for the classes; here 0 is ignored and the classes are 0..149. (The
reference keeps 151 outputs of which the first is never trained, fact 5.1.)
"""

from __future__ import annotations

from pathlib import Path

from deeplab.data.layouts.masks import IndexMasks, table_of
from deeplab.data.layouts.splits import ALIASES
from deeplab.data.stored import StoredSplit, by_stem, paired, require_folder

LOOKS_FOR = "images/training/ADE_*.jpg and annotations/training/ (or validation/)"
FOLDERS = ("training", "validation")

ADE20K_CLASSES: tuple[str, ...] = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet",
    "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water",
    "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk",
    "rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column", "signboard",
    "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand",
    "path", "stairs", "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge",
    "bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove",
    "palm", "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus",
    "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth", "television receiver",
    "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle",
    "buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything",
    "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven",
    "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake",
    "dishwasher", "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray",
    "ashcan", "fan", "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass",
    "clock", "flag",
)  # fmt: skip

FROM_FILE = table_of(
    {index + 1: index for index in range(len(ADE20K_CLASSES))},
    ignored=frozenset({0}),
)


def recognise(root: Path) -> bool:
    """Whether `root` has the benchmark's folders, and photos named as the benchmark's."""
    return any(
        (root / "annotations" / name).is_dir() and any((root / "images" / name).glob("ADE_*"))
        for name in FOLDERS
    )


def splits(root: Path) -> tuple[str, ...]:
    """ "train" and "val", as far as their folders are there."""
    shorts = {"training": "train", "validation": "val"}
    return tuple(shorts[name] for name in FOLDERS if (root / "images" / name).is_dir())


def survey(root: Path, split: str) -> StoredSplit:
    """All photos of the split: "train" or "training", "val" or "validation".

    Raises:
        UserError: a folder is missing.
    """
    folder = next((name for name in ALIASES.get(split, ()) if name in FOLDERS), split)
    photos, masks = require_folder(root / "images" / folder), require_folder(root / "annotations" / folder)
    read = IndexMasks(FROM_FILE, "0 (other) and 1..150")
    files = by_stem(photos), by_stem(masks, (".png",))
    return paired(*files, classes=ADE20K_CLASSES, origin="layout ade20k", read=read)
