"""Cityscapes' instance-weighted IoU (iIoU): every instance counts as much as one of its class's average size.

Source: the server's evalPixelLevelSemanticLabeling; Cordts et al. 2016, "The Cityscapes Dataset", section 4.1:
iIoU = iTP / (iTP + FP + iFN), where the pixels of an instance, hit or missed, are weighted by the average size of its
class over its own size. Crowds, whose instances nobody told apart, are no instances.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from deeplab.data.layouts.cityscapes import LABEL_IDS, LAST_LABEL_ID
from deeplab.errors import UserError
from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.imaging.label_maps import read_label_map
from deeplab.imaging.palettes import CITYSCAPES_CLASSES

# pixels of an instance, mean over the training set, as the server's script states them
AVERAGE_SIZES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
CATEGORIES = {
    "human": ("person", "rider"),
    "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
}
GROUPS: dict[str, tuple[str, ...]] = {**{name: (name,) for name in AVERAGE_SIZES}, **CATEGORIES}
# instance ids above this are label id * FIRST_INSTANCE + number; the others are labels without instances
FIRST_INSTANCE = 1000
# class of each label id; the last stands for all beyond, which have none
_NAMES = np.array(
    [
        CITYSCAPES_CLASSES[LABEL_IDS.index(label)] if label in LABEL_IDS else ""
        for label in range(LAST_LABEL_ID + 2)
    ]
)


class InstanceIoU:
    """Weighted hits and misses by class and by category, accumulated over images; exact in any order of images.

    Attributes:
        rows: by the image's number, float64 [2, len(GROUPS)]: weighted pixels of instances that are hit and missed;
            a category's are hit if any of its classes is predicted.
    """

    def __init__(self, classes: Sequence[str] = CITYSCAPES_CLASSES) -> None:
        """Start at zero.

        Args:
            classes: names by index of the predictions; those with instances must be among them.

        Raises:
            UserError: a class with instances is missing.
        """
        missing = [name for name in AVERAGE_SIZES if name not in classes]
        if missing:
            raise UserError(
                f"iIoU needs the classes {', '.join(AVERAGE_SIZES)}; missing: {', '.join(missing)}"
            )
        self.classes = tuple(classes)
        self.rows: dict[int, np.ndarray] = {}

    def update(self, image: int, instances: np.ndarray, predictions: np.ndarray) -> None:
        """Count image number `image`.

        Args:
            image: its number in the data set, different for each.
            instances: integers [H, W], Cityscapes' instance ids: label id * 1000 + number where instances are told
                apart, label ids elsewhere.
            predictions: integers [H, W], indices into `classes`.

        Raises:
            UserError: the sizes differ, or the image was counted before.
        """
        if instances.shape != predictions.shape or image in self.rows:
            raise UserError(
                f"image {image}: instances are {instances.shape}, predictions {predictions.shape}",
                allowed="one size, and each image once",
            )
        told_apart = instances > FIRST_INSTANCE
        ids, place, sizes = np.unique(instances[told_apart], return_inverse=True, return_counts=True)
        found = np.zeros((len(ids), len(self.classes)), np.int64)
        np.add.at(found, (place, predictions[told_apart].astype(np.int64)), 1)
        own = _NAMES[np.minimum(ids // FIRST_INSTANCE, len(_NAMES) - 1)]
        average = np.array([AVERAGE_SIZES.get(name, 0.0) for name in own])
        self.rows[image] = np.zeros((2, len(GROUPS)))
        for column, names in enumerate(GROUPS.values()):
            mine = np.isin(own, names)
            weights = average[mine] / sizes[mine]
            hits = found[mine][:, self._inside(names)].sum(axis=1)
            self.rows[image][:, column] = (hits * weights).sum(), ((sizes[mine] - hits) * weights).sum()

    def __add__(self, other: InstanceIoU) -> InstanceIoU:
        """Both sets of images together.

        Raises:
            UserError: other classes, or an image in both.
        """
        twice = sorted(self.rows.keys() & other.rows.keys())
        if self.classes != other.classes or twice:
            raise UserError(f"cannot add iIoU of other classes, or with an image in both: {twice[:5]}")
        total = InstanceIoU(self.classes)
        total.rows = self.rows | other.rows
        return total

    def by_class(self, confusion: ConfusionMatrix) -> dict[str, float]:
        """iIoU of each class that has instances, 0..1; NaN for one that is neither there nor predicted.

        Args:
            confusion: of the same images, whose pixels give the false positives.
        """
        return self._scores(confusion, AVERAGE_SIZES)

    def by_category(self, confusion: ConfusionMatrix) -> dict[str, float]:
        """iIoU of persons and vehicles, where a mix-up within the category is none; as `by_class`."""
        return self._scores(confusion, CATEGORIES)

    def mean(self, confusion: ConfusionMatrix) -> float:
        """Mean of `by_class` without NaN; NaN if nothing is left."""
        values = [value for value in self.by_class(confusion).values() if not np.isnan(value)]
        return sum(values) / len(values) if values else float("nan")

    def _scores(self, confusion: ConfusionMatrix, wanted: Iterable[str]) -> dict[str, float]:
        # in the images' order, so that sums of weights do not depend on who counted which image
        rows = [self.rows[image] for image in sorted(self.rows)]
        totals = sum(rows, np.zeros((2, len(GROUPS))))
        scores = {}
        for (name, names), (hit, missed) in zip(GROUPS.items(), totals.T, strict=True):
            inside = self._inside(names)
            whole = hit + missed + confusion.counts[~inside][:, inside].sum()
            scores[name] = float(hit / whole) if whole else float("nan")
        return {name: scores[name] for name in wanted}

    def _inside(self, names: Sequence[str]) -> np.ndarray:
        """bool [classes]: which of them are named."""
        return np.isin(self.classes, names)


def instance_file(mask: str | Path) -> Path | None:
    """NAME_instanceIds.png beside Cityscapes' mask NAME_labelIds.png or NAME_labelTrainIds.png; None without one."""
    path = Path(mask)
    name = path.name.replace("_labelIds.png", "_instanceIds.png").replace(
        "_labelTrainIds.png", "_instanceIds.png"
    )
    beside = path.with_name(name)
    return beside if name != path.name and beside.is_file() else None


def read_instances(path: Path) -> np.ndarray:
    """int32 [H, W] of a file NAME_instanceIds.png.

    Raises:
        UserError: there is none, or it is no picture of ids.
    """
    return read_label_map(path).astype(np.int32)
