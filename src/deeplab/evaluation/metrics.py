"""Mean IoU and its relatives from one confusion matrix (reference fact 6.4).

Who averages over what, for a class without a labelled pixel:

- "reference": a class that was only predicted counts as 0, one that is nowhere is left out; 0 if nothing is left.
- "cityscapes" (the server's evalPixelLevelSemanticLabeling): the same; NaN if nothing is left.
- "voc" (the development kit's VOCevalseg): the mean over all classes, so NaN if one is nowhere (0 / 0).
- "labelled" (toolkits that average IoU with nanmean): classes without a labelled pixel are left out.

Where every class has a labelled pixel, as in the full validation and test splits, all four are equal.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch

from deeplab.errors import UserError
from deeplab.native.confusion import count_pixels

IntegerArray = np.ndarray | torch.Tensor
Convention = Literal["reference", "cityscapes", "voc", "labelled"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)


class ConfusionMatrix:
    """Pixel counts by (label, prediction), accumulated over any number of images.

    Attributes:
        counts: int64 [num_classes, num_classes], rows labels, columns predictions. To add up over
            processes, sum this array, or add the matrices.
    """

    def __init__(self, num_classes: int, *, ignore_label: int = 255) -> None:
        """Start at zero.

        Args:
            num_classes: number of classes, at least 1.
            ignore_label: pixels with this label count nowhere, whatever was predicted there; a negative
                one ignores nothing.
        """
        if num_classes < 1:
            raise UserError(
                f"a confusion matrix of {num_classes} classes makes no sense", allowed="1 or more"
            )
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.counts = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, labels: IntegerArray, predictions: IntegerArray) -> None:
        """Count the pixels of one image or batch.

        Args:
            labels: integers of any shape: 0..num_classes-1 or `ignore_label`.
            predictions: integers of the same shape: 0..num_classes-1. Tensors on a GPU are counted there.

        Raises:
            UserError: shapes differ, an array is not of integers, or a value is out of range.
        """
        if tuple(labels.shape) != tuple(predictions.shape):
            raise UserError(
                f"labels are {tuple(labels.shape)}, predictions {tuple(predictions.shape)}",
                fix="resize the prediction to the label map",
            )
        side = max(256, self.num_classes, self.ignore_label + 1)
        if count_pixels(labels, predictions, self.counts, ignore_label=self.ignore_label, side=side):
            return
        columns = _indices(predictions, side=side, what="prediction")
        rows = _indices(labels, side=side, what="label").to(columns.device)
        joint = torch.bincount(rows * side + columns)
        table = np.zeros(side * side, dtype=np.int64)
        table[: joint.numel()] = joint.cpu().numpy()
        self._add(table.reshape(side, side))

    def _add(self, table: np.ndarray) -> None:
        if self.ignore_label >= 0:
            table[self.ignore_label] = 0
        for what, pixels in (("label", table.sum(axis=1)), ("prediction", table.sum(axis=0))):
            wrong = np.flatnonzero(pixels[self.num_classes :])
            if wrong.size:
                value = self.num_classes + int(wrong[0])
                raise UserError(
                    f"{what} {value} is no class ({pixels[value]} pixels)",
                    allowed=f"0..{self.num_classes - 1}, and {self.ignore_label} for ignored labels",
                    fix="correct the masks or the class list",
                )
        self.counts += table[: self.num_classes, : self.num_classes]

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """The matrix of both sets of pixels together."""
        if (self.num_classes, self.ignore_label) != (other.num_classes, other.ignore_label):
            raise UserError(
                f"cannot add confusion matrices of {self.num_classes} classes (ignore {self.ignore_label}) "
                f"and {other.num_classes} classes (ignore {other.ignore_label})"
            )
        total = ConfusionMatrix(self.num_classes, ignore_label=self.ignore_label)
        total.counts = self.counts + other.counts
        return total

    def require_labelled(self, what: str) -> None:
        """Raise UserError where no pixel was counted, as every measure of `what` would be nonsense."""
        if not self.counts.any():
            raise UserError(
                f"{what} has no labelled pixel: all are {self.ignore_label}, which is ignored, so that "
                "nothing can be measured",
                fix="correct the masks, or the names of the classes",
            )

    def mean_iou(self, convention: Convention = "reference") -> float:
        """Mean IoU as `convention` averages (see the module); NaN where that has nothing to say.

        The reference's can be lower than the mean of `iou_per_class` without its NaN: a class that was only
        predicted counts as 0.

        Raises:
            UserError: no such convention.
        """
        return mean_iou(self._hits(), self._labelled(), self.counts.sum(axis=0), convention=convention)

    def iou_per_class(self) -> np.ndarray:
        """float64 [num_classes]: intersection over union; NaN for classes without a labelled pixel."""
        return _ratio(self._hits(), np.where(self._labelled() > 0, self._union(), 0))

    def accuracy_per_class(self) -> np.ndarray:
        """float64 [num_classes]: share of a class's labelled pixels found; NaN for classes without any."""
        return _ratio(self._hits(), self._labelled())

    def mean_accuracy(self) -> float:
        """Mean of `accuracy_per_class` over the labelled classes; NaN if no pixel was counted."""
        values = self.accuracy_per_class()
        return float(np.nanmean(values)) if self.counts.any() else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of counted pixels predicted right; NaN if no pixel was counted."""
        return float(_ratio(self._hits().sum(), self.counts.sum()))

    def frequency_weighted_iou(self) -> float:
        """Mean of `iou_per_class` weighted by labelled pixels; NaN if no pixel was counted."""
        labelled = self._labelled()
        return float(_ratio(np.nansum(self.iou_per_class() * labelled), labelled.sum()))

    def _hits(self) -> np.ndarray:
        return np.diag(self.counts)

    def _labelled(self) -> np.ndarray:
        return self.counts.sum(axis=1)

    def _union(self) -> np.ndarray:
        return self._labelled() + self.counts.sum(axis=0) - self._hits()


def mean_iou(
    hits: np.ndarray, labelled: np.ndarray, predicted: np.ndarray, *, convention: Convention = "reference"
) -> float:
    """Mean IoU from pixel counts by class; `ConfusionMatrix.mean_iou` without the matrix.

    Args:
        hits, labelled, predicted: int64 [num_classes]: pixels that are both, labelled so, predicted so.
        convention: see the module.
    """
    if convention not in CONVENTIONS:
        raise UserError(f"mean IoU by {convention!r} is unknown", allowed=", ".join(CONVENTIONS))
    union = labelled + predicted - hits
    if convention == "voc" and not union.all():
        return float("nan")
    kept = labelled > 0 if convention == "labelled" else union > 0
    if not kept.any():
        return 0.0 if convention == "reference" else float("nan")
    return float((hits[kept] / union[kept]).mean())


def _indices(values: IntegerArray, *, side: int, what: str) -> torch.Tensor:
    if "int" not in str(values.dtype):
        raise UserError(
            f"{what}s are {values.dtype}", allowed="integers", fix="take the argmax of logits first"
        )
    if isinstance(values, np.ndarray):
        # A copy: torch warns about read-only arrays, which is what Pillow hands out.
        values = torch.from_numpy(values.astype(np.uint8 if values.dtype == np.uint8 else np.int64))
    if values.dtype != torch.uint8 and values.numel():
        low, high = (int(value) for value in values.long().aminmax())
        if low < 0 or high >= side:
            wrong = low if low < 0 else high
            raise UserError(
                f"{what} {wrong} is out of range", allowed=f"0..{side - 1}", fix="correct the masks"
            )
    return values.flatten().to(torch.int32 if side * side <= torch.iinfo(torch.int32).max else torch.int64)


def _ratio(part: np.ndarray | np.integer, whole: np.ndarray | np.integer) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(part, dtype=np.float64) / whole
