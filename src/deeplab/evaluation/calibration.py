"""Whether a model is as sure as it is right: reliability bins and the expected calibration error.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equations 2, 3 and 5, over pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deeplab.errors import UserError

# Sums of whole steps do not depend on the order; half a step is below a float32's own rounding near 1.
_STEPS = 1 << 24


class Bin(NamedTuple):
    """One bin of the reliability diagram: confidences in [low, high); means are NaN in an empty bin."""

    low: float
    high: float
    pixels: int
    confidence: float
    accuracy: float


class Calibration:
    """Confidence and accuracy by bins of equal width, accumulated over images; exact in any order.

    Attributes:
        counts: int64 [3, bins]: pixels, pixels predicted right, sum of confidences in steps of 2 ** -24.
    """

    def __init__(self, *, bins: int = 15, ignore_label: int = 255) -> None:
        """Start at zero.

        Args:
            bins: of equal width over 0..1, 1 or more; 15 in the paper.
            ignore_label: pixels with this label count nowhere.
        """
        if bins < 1:
            raise UserError(f"{bins} bins make no reliability diagram", allowed="1 or more")
        self.bins = bins
        self.ignore_label = ignore_label
        self.counts = np.zeros((3, bins), np.int64)

    def update(self, labels: np.ndarray, predictions: np.ndarray, confidence: np.ndarray) -> None:
        """Count the pixels of one image or batch.

        Args:
            labels, predictions: integers of any one shape.
            confidence: float of the same shape: the probability of the predicted class, 0..1.

        Raises:
            UserError: shapes differ, or a confidence that counts is outside 0..1.
        """
        if not labels.shape == predictions.shape == confidence.shape:
            raise UserError(
                f"labels are {labels.shape}, predictions {predictions.shape}, confidences {confidence.shape}",
                fix="bring all to the label map's size",
            )
        valid = labels != self.ignore_label
        sure = confidence[valid].astype(np.float64)
        # a softmax in half precision may sum to a little more than 1
        if sure.size and not (sure.min() >= 0 and sure.max() <= 1 + 1e-3):
            raise UserError(
                f"confidences lie in {sure.min()}..{sure.max()}", fix="pass probabilities, not logits"
            )
        steps = np.rint(np.minimum(sure, 1) * _STEPS).astype(np.int64)
        place = np.minimum(steps * self.bins // _STEPS, self.bins - 1)
        right = (labels == predictions)[valid]
        self.counts[0] += np.bincount(place, minlength=self.bins)
        self.counts[1] += np.bincount(place[right], minlength=self.bins)
        # float64 adds whole numbers up to 2 ** 53 exactly: half a thousand million pixels in one update
        self.counts[2] += np.bincount(place, weights=steps, minlength=self.bins).astype(np.int64)

    def __add__(self, other: Calibration) -> Calibration:
        """The bins of both sets of pixels together."""
        if (self.bins, self.ignore_label) != (other.bins, other.ignore_label):
            raise UserError(f"cannot add calibrations of {self.bins} and {other.bins} bins")
        total = Calibration(bins=self.bins, ignore_label=self.ignore_label)
        total.counts = self.counts + other.counts
        return total

    def reliability(self) -> list[Bin]:
        """All bins, from the least sure."""
        pixels, right, steps = self.counts
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy, confidence = right / pixels, steps / _STEPS / pixels
        edges = [index / self.bins for index in range(self.bins + 1)]
        columns = zip(edges, edges[1:], pixels.tolist(), confidence.tolist(), accuracy.tolist(), strict=False)
        return [Bin(*column) for column in columns]

    def expected_error(self) -> float:
        """ECE: mean over pixels of their bin's |accuracy - confidence|, 0..1; NaN if no pixel was counted."""
        pixels, right, steps = self.counts
        total = int(pixels.sum())
        return float(np.abs(right - steps / _STEPS).sum() / total) if total else float("nan")

    def maximum_error(self) -> float:
        """MCE: the largest |accuracy - confidence| of a bin that has pixels; NaN if none has."""
        gaps = [abs(one.accuracy - one.confidence) for one in self.reliability() if one.pixels]
        return max(gaps, default=float("nan"))
