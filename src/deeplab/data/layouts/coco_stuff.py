"""COCO-Stuff: COCO's photos with a PNG of things and stuff for each.

    ROOT/images/train2017/NAME.jpg (or ROOT/train2017/)
    ROOT/stuffthingmaps_trainval2017/train2017/NAME.png (or stuffthingmaps/, annotations/)

The files say id - 1 of the 182 published ids, 255 for unlabeled; 11 ids were never drawn, so the classes here
are the other 171, in the order of their ids.
"""

from __future__ import annotations

from pathlib import Path

from deeplab.data.joining import visible
from deeplab.data.layouts.masks import IndexMasks, table_of
from deeplab.data.source import IGNORE_LABEL
from deeplab.data.stored import StoredSplit, by_stem, paired, require_folder

LOOKS_FOR = "stuffthingmaps_trainval2017/, stuffthingmaps/ or annotations/ with train2017/ or val2017/ of PNG"
MASK_FOLDERS = ("stuffthingmaps_trainval2017", "stuffthingmaps", "annotations")

# in the order of the ids, from 1; names that were never drawn stand with a minus
_IDS = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, -street sign,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, -hat, backpack,
umbrella, -shoe, -eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,
baseball glove, skateboard, surfboard, tennis racket, bottle, -plate, wine glass, cup, fork, knife, spoon, bowl,
banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
-mirror, dining table, -window, -desk, toilet, -door, tv, laptop, mouse, remote, keyboard, cell phone, microwave,
oven, toaster, sink, refrigerator, -blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush,
-hair brush, banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet,
ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff,
fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit,
furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain,
mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad, river,
road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw,
structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other,
wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""
_NAMES = tuple(" ".join(name.split()) for name in _IDS.split(","))
_DRAWN = tuple(value for value, name in enumerate(_NAMES) if not name.startswith("-"))
COCO_STUFF_CLASSES: tuple[str, ...] = tuple(_NAMES[value] for value in _DRAWN)

FROM_FILE = table_of(
    {value: index for index, value in enumerate(_DRAWN)},
    ignored=frozenset({IGNORE_LABEL, *range(len(_NAMES))}),
)


def recognise(root: Path) -> bool:
    """Whether one of the mask folders has a year's folder with PNGs."""
    return bool(splits(root))


def splits(root: Path) -> tuple[str, ...]:
    """ "train" and "val", as far as their masks are there."""
    return tuple(split for split in ("train", "val") if _masks(root, split) is not None)


def survey(root: Path, split: str) -> StoredSplit:
    """All photos of the split: "train", "val", or a folder's name such as "train2017".

    Raises:
        UserError: a folder is missing.
    """
    masks = require_folder(_masks(root, split) or root / MASK_FOLDERS[0] / split)
    photos = root / "images" / masks.name
    photos = require_folder(photos if photos.is_dir() else root / masks.name)
    # other tools leave NAME_labelTrainIds.png beside the masks
    listed = by_stem(masks, (".png",))
    own = {name: path for name, path in listed.files.items() if "TrainIds" not in name}
    read = IndexMasks(FROM_FILE, "0..181 (id - 1), and 255 for unlabeled")
    files = by_stem(photos), listed._replace(files=own)
    return paired(*files, classes=COCO_STUFF_CLASSES, origin="layout coco-stuff", read=read)


def _masks(root: Path, split: str) -> Path | None:
    for folder in MASK_FOLDERS:
        for path in sorted((root / folder).glob(f"{split}*")):
            if path.is_dir() and path.name.removeprefix(split) in ("", "2014", "2017"):
                return path if visible(path, "*.png") else None
    return None
