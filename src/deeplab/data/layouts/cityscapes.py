"""Cityscapes: label ids on disk, train ids in training, and the way back for the test server.

    ROOT/leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png
    ROOT/gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png (or, as the reference wants, ..._labelTrainIds.png; or
    ..._polygons.json, of which the others are made)

The 34 label ids of the files become the 19 train ids; all others are ignored. Ids: Cityscapes' published
label definitions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.data.joining import visible
from deeplab.data.layouts import polygons
from deeplab.data.layouts.masks import IndexMasks, read_mask, table_of
from deeplab.data.layouts.painting import (
    ClassList,
    Painter,
    Picture,
    Region,
    as_written,
    outline_fault,
    read_json,
    unpainted,
)
from deeplab.data.source import IGNORE_LABEL
from deeplab.data.stored import Item, Listing, StoredSplit, listing, paired, require_folder
from deeplab.errors import UserError
from deeplab.imaging.palettes import CITYSCAPES_CLASSES
from deeplab.imaging.png import save_png

LOOKS_FOR = "leftImg8bit/ and gtFine/ or gtCoarse/"
PHOTO_END = "_leftImg8bit"
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label id of each train id."""
LAST_LABEL_ID = 33
UNLABELED = 0
IGNORED = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "parking",
    "rail track", "guard rail", "bridge", "tunnel", "polegroup", "caravan", "trailer",
)  # fmt: skip
"""Labels without a train id."""
UNPAINTED = ("license plate",)
"""Labels without any id, which leave what is below them."""

TO_TRAIN_IDS = table_of(
    {label: train for train, label in enumerate(LABEL_IDS)},
    ignored=frozenset({*range(LAST_LABEL_ID + 1), IGNORE_LABEL}) - frozenset(LABEL_IDS),
)


def recognise(root: Path) -> bool:
    """Whether `root` has Cityscapes' folders."""
    return (root / "leftImg8bit").is_dir() and any((root / kind).is_dir() for kind in ("gtFine", "gtCoarse"))


def splits(root: Path) -> tuple[str, ...]:
    """The folders of photos."""
    return tuple(path.name for path in visible(root / "leftImg8bit") if path.is_dir())


def survey(root: Path, split: str, *, labels: str | None = None) -> StoredSplit:
    """All photos of the split's cities.

    Args:
        root: folder that holds leftImg8bit.
        split: "train", "val", "test" or "train_extra".
        labels: "gtFine" or "gtCoarse"; None takes gtFine where it has the split.

    Raises:
        UserError: a folder is missing.
    """
    photos = require_folder(root / "leftImg8bit" / split)
    kind = labels or ("gtFine" if (root / "gtFine" / split).is_dir() else "gtCoarse")
    masks = require_folder(root / kind / split)
    ids, train_ids = f"_{kind}_labelIds.png", f"_{kind}_labelTrainIds.png"
    ending = ids if visible(masks, f"*/*{ids}") or not visible(masks, f"*/*{train_ids}") else train_ids
    outlines = f"_{kind}_polygons.json"
    if not visible(masks, f"*/*{ending}") and visible(masks, f"*/*{outlines}"):
        ending = outlines
    readers: dict[str, Callable[[Item], np.ndarray]] = {
        ids: IndexMasks(TO_TRAIN_IDS, "label ids 0..33"),
        train_ids: IndexMasks(),
        outlines: Painter(_picture, ClassList(CITYSCAPES_CLASSES)),
    }
    found = paired(
        _by_frame(photos, f"{PHOTO_END}.png"),
        _by_frame(masks, ending),
        classes=CITYSCAPES_CLASSES,
        origin="layout cityscapes",
        read=readers[ending],
    )
    if ending != outlines:
        return found
    bad = tuple(text for item in found.items for text in unpainted(_picture(item).regions, item.mask))
    return replace(found, bad=bad)


def _picture(item: Item) -> Picture:
    content = read_json(item.mask)
    with as_written(item.mask):
        size = int(content["imgHeight"]), int(content["imgWidth"])
        objects = [entry for entry in content["objects"] if not entry.get("deleted")]
        return Picture(
            size,
            [
                Region(
                    _class_of(entry["label"]),
                    partial(polygons.fill_between_pixels, entry["polygon"], [], size),
                    f"object {number} ({entry['label']})",
                    outline_fault(entry["polygon"]),
                )
                for number, entry in enumerate(objects, 1)
                if entry["label"] not in UNPAINTED
            ],
        )


def _class_of(label: str) -> str:
    """The class of a label: groups are of their members' class, and what has no train id is ignored."""
    name = label if label in (*CITYSCAPES_CLASSES, *IGNORED) else label.removesuffix("group")
    return "ignore" if name in IGNORED else name


def _by_frame(folder: Path, ending: str) -> Listing:
    files = visible(folder, f"*/*{ending}")
    return listing(folder, files, ending=Path(ending).stem, flat=True)._replace(ending=ending)


def to_label_ids(train_ids: np.ndarray) -> np.ndarray:
    """Train ids (0..18, 255) as label ids (0..33), uint8 [H, W]; 255 becomes 0, "unlabeled"."""
    table = np.full(256, UNLABELED, np.uint8)
    table[: len(LABEL_IDS)] = LABEL_IDS
    return table[train_ids]


def export_predictions(predictions: Path, output: Path) -> int:
    """Write what the test server takes: a grey PNG of label ids for each PNG of train ids.

    Args:
        predictions: folder of index PNGs named CITY_SEQUENCE_FRAME..., searched with its subfolders.
        output: folder for CITY_SEQUENCE_FRAME_leftImg8bit.png; made if need be.

    Returns:
        the number of files.

    Raises:
        UserError: no PNG there, a name of another form, two of one name, or a value that is no train id.
    """
    files = sorted(path for path in require_folder(predictions).rglob("*.png"))
    if not files:
        raise UserError(
            f"{predictions} holds no PNG", fix="name the folder that the predictions were written to"
        )
    written: dict[str, Path] = {}
    for path in files:
        name = _frame(path)
        if name in written:
            raise UserError(f"{path} and {written[name]} are both of {name}", fix="keep one of them")
        written[name] = path
        labels = read_mask(path)
        wrong = (labels >= len(LABEL_IDS)) & (labels != IGNORE_LABEL)
        if wrong.any():
            raise UserError(
                f"value {labels[wrong][0]} is no train id",
                allowed="0..18, and 255",
                fix=(
                    "predict with a model of Cityscapes' 19 classes, and give its label maps, not its "
                    "overlays"
                ),
                file=path,
            )
        save_png(Image.fromarray(to_label_ids(labels)), output / f"{name}{PHOTO_END}.png")
    return len(written)


def _frame(path: Path) -> str:
    parts = path.stem.split("_")
    if len(parts) < 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        raise UserError(
            "the test server tells photos by names like berlin_000000_000019",
            fix="keep the photos' names for the predictions",
            file=path,
        )
    return "_".join(parts[:3])
