"""The ways in which data sets lie on disk, and which of them a folder has.

Each layout says how it is recognised, which splits it has, and what is in one of them: a survey, which refuses no more
than what cannot be told at all, such as a folder or list that is not there. Training, evaluation, conversion and the
doctor all ask here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from deeplab.data.layouts import (
    ade20k,
    ade20k_full,
    camvid,
    cityscapes,
    coco,
    coco_panoptic,
    coco_stuff,
    cvat,
    cvat_masks,
    images,
    label_studio,
    labelme,
    loveda,
    mapillary,
    roboflow,
    suim,
    supervisely,
    tar_shards,
    tfrecord,
    via,
    voc,
    yolo,
)
from deeplab.data.source import Survey
from deeplab.errors import UserError


class Layout(NamedTuple):
    """One way to store a data set.

    looks_for: what `recognise` looks for, in words.
    survey: (root, split, and of the options that `takes` lists) to what is there.
    """

    looks_for: str
    recognise: Callable[[Path], bool]
    splits: Callable[[Path], tuple[str, ...]]
    survey: Callable[..., Survey]
    takes: frozenset[str] = frozenset()


def _layout(module: ModuleType, *takes: str) -> Layout:
    return Layout(module.LOOKS_FOR, module.recognise, module.splits, module.survey, frozenset(takes))


# the order of recognition: those with a mark of their own first, plain folders last
LAYOUTS: dict[str, Layout] = {
    "cityscapes": _layout(cityscapes, "labels"),
    "voc": _layout(voc, "labels", "names", "values"),
    "cvat-masks": _layout(cvat_masks),
    "cvat": _layout(cvat),
    "ade20k-full": _layout(ade20k_full),
    "ade20k": _layout(ade20k),
    "mapillary": _layout(mapillary, "labels"),
    "loveda": _layout(loveda),
    "suim": _layout(suim),
    "camvid": _layout(camvid, "names"),
    "roboflow": _layout(roboflow),
    "supervisely": _layout(supervisely),
    "labelme": _layout(labelme, "names", "line_width"),
    "tfrecord": _layout(tfrecord, "names"),
    "webdataset": _layout(tar_shards, "names"),
    "coco": _layout(coco),
    "coco-panoptic": _layout(coco_panoptic),
    "coco-stuff": _layout(coco_stuff),
    "label-studio": _layout(label_studio, "names"),
    "via": _layout(via, "names"),
    "yolo": _layout(yolo),
    "images": _layout(images, "labels", "names", "values"),
}


def recognise(root: Path) -> str:
    """The name of the layout that `root` has, by its content; the first of `LAYOUTS` that fits.

    Raises:
        UserError: not a folder, or of no known layout; the message says what was looked for.
    """
    if not root.is_dir():
        raise UserError(f"{root} is no folder", fix="name the folder that holds the data set")
    for name, layout in LAYOUTS.items():
        if layout.recognise(root):
            return name
    looked = "\n".join(f"  {name}: {layout.looks_for}" for name, layout in LAYOUTS.items())
    found = ", ".join(sorted(path.name for path in root.iterdir())[:12]) or "nothing"
    raise UserError(
        f"{root} has none of the known layouts. It holds: {found}. Looked for:\n{looked}",
        fix="name the folder above or below, or bring the data into the layout images",
    )
