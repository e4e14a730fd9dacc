"""VOC's training split "train_aug" from the Semantic Boundaries Dataset (SBD).

SBD annotates 11,355 of VOC's photos; together with VOC's own training photos, and without VOC's validation
photos, they are the 10,582 that the papers train on. A photo that VOC itself has segmented keeps VOC's mask,
which is finer and marks object borders as ignore. Needs scipy, which reads SBD's MATLAB files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab.data.layouts.splits import matched
from deeplab.data.layouts.voc import LISTS, list_path
from deeplab.data.stored import by_stem, require_folder
from deeplab.errors import UserError, require
from deeplab.imaging.label_maps import save_label_map
from deeplab.imaging.palettes import VOC_CLASSES, pascal
from deeplab.system.writing import write_whole

SBD_FOLDERS = (".", "dataset", "benchmark_RELEASE/dataset")
OUTPUT_FOLDER = "SegmentationClassAug"
OUTPUT_LIST = "train_aug"


class Plan(NamedTuple):
    """What `write_train_aug` will write.

    masks: the file that each mask comes from, VOC's PNG or SBD's MATLAB file, by name.
    listed: the names for train_aug.txt.
    """

    voc: Path
    masks: dict[str, Path]
    listed: list[str]


def plan_train_aug(sbd: Path, voc: Path) -> Plan:
    """Find everything that is needed.

    Args:
        sbd: the unpacked benchmark.tgz, or its folder "dataset" (cls/, train.txt, val.txt).
        voc: VOC2012 (JPEGImages, SegmentationClass, ImageSets).

    Raises:
        UserError: a folder, list, photo or mask is missing.
    """
    source = _dataset_folder(sbd)
    photos = by_stem(require_folder(voc / "JPEGImages")).files
    train, val = (matched(list_path(voc, split), list(photos)) for split in ("train", "val"))
    annotated = [
        name for split in ("train", "val") for name in matched(source / f"{split}.txt", list(photos))
    ]
    listed = sorted({*annotated, *train} - set(val))
    own = by_stem(require_folder(voc / "SegmentationClass"), (".png",)).files
    files = {**by_stem(source / "cls", (".mat",)).files, **own}
    _require_all(listed, photos, what=f"photo in {voc / 'JPEGImages'}")
    # val's masks too, so that one folder serves every list
    names = sorted({*listed, *val})
    _require_all(names, files, what=f"mask in {voc / 'SegmentationClass'} or {source / 'cls'}")
    return Plan(voc, {name: files[name] for name in names}, listed)


def write_train_aug(plan: Plan, *, on_mask: Callable[[], None] = lambda: None) -> None:
    """Write VOC/SegmentationClassAug/ and, last of all, VOC/ImageSets/Segmentation/train_aug.txt.

    Args:
        plan: of `plan_train_aug`.
        on_mask: called after each mask, for a progress bar.

    Raises:
        UserError: a MATLAB file is broken, scipy is missing, or a file cannot be written.
    """
    output = plan.voc / OUTPUT_FOLDER
    for name, file in plan.masks.items():
        target = output / f"{name}.png"
        if file.suffix == ".mat":
            save_label_map(read_sbd_mask(file), target, palette=pascal())
        else:
            write_whole(target, file)
        on_mask()
    names = "".join(f"{name}\n" for name in plan.listed)
    write_whole(plan.voc / LISTS / f"{OUTPUT_LIST}.txt", names)


def read_sbd_mask(path: Path) -> np.ndarray:
    """Class indices of one of SBD's cls/NAME.mat, uint8 [H, W], 0..20.

    Raises:
        UserError: unreadable, or not such a file; or scipy is missing.
    """
    loader = require("scipy.io", extra="sbd")
    try:
        labels = np.asarray(loader.loadmat(path)["GTcls"][0, 0]["Segmentation"])
    # scipy raises its own errors for broken files, and KeyError, IndexError, ValueError for other content
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as an SBD annotation ({type(error).__name__}: {error})",
            fix="unpack benchmark.tgz again",
        ) from error
    if labels.ndim != 2 or labels.max() >= len(VOC_CLASSES):
        raise UserError(
            f"shape {labels.shape}, largest value {labels.max()}", allowed="[H, W], 0..20", file=path
        )
    return labels.astype(np.uint8)


def _dataset_folder(sbd: Path) -> Path:
    for name in SBD_FOLDERS:
        if (sbd / name / "cls").is_dir():
            return sbd / name
    looked = ", ".join(str(sbd / name / "cls") for name in SBD_FOLDERS)
    raise UserError(
        f"{sbd} is not SBD: none of {looked} is there", fix="unpack benchmark.tgz and name its folder"
    )


def _require_all(names: Sequence[str], files: dict[str, Path], *, what: str) -> None:
    missing = [name for name in names if name not in files]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(names)} names have no {what}, first {missing[0]}",
            fix="take the whole VOC2012",
        )
