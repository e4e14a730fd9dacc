"""How sure a mean IoU is: confidence intervals by bootstrap over the images (Efron 1979, percentile method).

Images, not pixels, are drawn with replacement: pixels of one image are not independent. Only three counts by
image and class are kept, 24 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from deeplab.errors import UserError
from deeplab.evaluation.metrics import ConfusionMatrix, Convention, mean_iou


class Interval(NamedTuple):
    """An estimate of all images, its standard error, and the interval that covers `confidence` of the draws."""

    estimate: float
    low: float
    high: float
    standard_error: float
    confidence: float


class ImageCounts:
    """Pixels hit, labelled and predicted by class, for each image.

    Attributes:
        rows: by the image's number, int64 [3, num_classes]: hits, labelled, predicted.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.rows: dict[int, np.ndarray] = {}

    def update(self, image: int, confusion: ConfusionMatrix) -> None:
        """Take the counts of image number `image` from its own confusion matrix."""
        counts = confusion.counts
        self.rows[image] = np.stack([np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)])

    def __add__(self, other: ImageCounts) -> ImageCounts:
        """The counts of both sets of images.

        Raises:
            UserError: other classes, or an image in both.
        """
        twice = sorted(self.rows.keys() & other.rows.keys())
        if twice or self.num_classes != other.num_classes:
            raise UserError(
                f"cannot add counts of {self.num_classes} and {other.num_classes} classes; images in both: {twice[:5]}"
            )
        total = ImageCounts(self.num_classes)
        total.rows = self.rows | other.rows
        return total

    def table(self) -> np.ndarray:
        """int64 [images, 3, num_classes], in the order of the images' numbers."""
        rows = [self.rows[image] for image in sorted(self.rows)]
        return np.stack(rows) if rows else np.zeros((0, 3, self.num_classes), np.int64)


def mean_iou_interval(
    counts: ImageCounts,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    convention: Convention = "reference",
) -> Interval:
    """Mean IoU and its confidence interval; equal for equal counts and seed.

    Args:
        counts: of at least one image.
        resamples: how many times as many images are drawn with replacement, 1 or more.
        confidence: in (0, 1).
        seed: of the draws.
        convention: see `deeplab.evaluation.metrics`.

    Raises:
        UserError: no image, or `resamples` or `confidence` out of range.
    """
    table = counts.table()
    _check(len(table), resamples, confidence)
    draws = [mean_iou(*drawn, convention=convention) for drawn in _resampled(table, resamples, seed)]
    return _interval(mean_iou(*table.sum(axis=0), convention=convention), draws, confidence)


def difference_interval(
    first: ImageCounts,
    second: ImageCounts,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    convention: Convention = "reference",
) -> Interval:
    """Mean IoU of `first` less that of `second`, both of the same images, which are drawn for both together.

    Much tighter than two intervals side by side: what makes an image hard for both models cancels. The
    difference means something if the interval leaves out 0.

    Args:
        first, second: counts of two models on the same images.
        resamples, confidence, seed, convention: see `mean_iou_interval`.

    Raises:
        UserError: other images, pixels or classes; else as `mean_iou_interval`.
    """
    one, other = first.table(), second.table()
    labelled = slice(1, 2)
    if sorted(first.rows) != sorted(second.rows) or not np.array_equal(one[:, labelled], other[:, labelled]):
        raise UserError(
            f"the two results are not of the same ground truth ({len(one)} and {len(other)} images)",
            fix="evaluate both models on the same split, masks and classes",
        )
    _check(len(one), resamples, confidence)
    both = np.concatenate([one, other], axis=1)

    def difference(drawn: np.ndarray) -> float:
        return mean_iou(*drawn[:3], convention=convention) - mean_iou(*drawn[3:], convention=convention)

    draws = [difference(drawn) for drawn in _resampled(both, resamples, seed)]
    return _interval(difference(both.sum(axis=0)), draws, confidence)


def _resampled(table: np.ndarray, resamples: int, seed: int) -> Iterable[np.ndarray]:
    """The sum over images drawn with replacement, as often as `resamples` says."""
    random = np.random.default_rng(seed)
    images = len(table)
    for _ in range(resamples):
        times = np.bincount(random.integers(0, images, images), minlength=images)
        yield np.tensordot(times, table, axes=1)


def _check(images: int, resamples: int, confidence: float) -> None:
    if images < 1:
        raise UserError("no image was evaluated, so there is nothing to draw from")
    if resamples < 1 or not 0 < confidence < 1:
        raise UserError(
            f"{resamples} resamples at confidence {confidence}",
            allowed="1 or more, and between 0 and 1",
            fix="try 1000 and 0.95",
        )


def _interval(estimate: float, draws: list[float], confidence: float) -> Interval:
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), float(np.std(draws)), confidence)
