"""Panoptic Quality: segments found, and how well they are outlined.

Source: reference fact 6.9; Kirillov et al., Panoptic Segmentation (arXiv 1801.00868), section 4.
"""

from __future__ import annotations

import numpy as np

from deeplab.evaluation.panoptic.accumulator import Accumulator, ratio_or_zero
from deeplab.evaluation.panoptic.overlaps import Overlaps

MATCHING_IOU = 0.5
FORGIVEN_SHARE = 0.5


class PanopticQuality(Accumulator):
    """PQ = SQ * RQ by category, and their means.

    A ground truth and a predicted segment of one category match if their IoU exceeds 0.5, where the part of the
    prediction on void is no part of the union. A prediction without a match counts as false unless
    more than half of it lies on the ignored category.
    """

    measure_names = ("pq", "sq", "rq")
    total_names = ("iou", "tp", "fn", "fp")

    @property
    def iou_per_class(self) -> np.ndarray:
        """float64 [num_categories]: sum of the matches' IoU."""
        return self.totals[0]

    @property
    def tp_per_class(self) -> np.ndarray:
        """float64 [num_categories]: number of matches."""
        return self.totals[1]

    @property
    def fn_per_class(self) -> np.ndarray:
        """float64 [num_categories]: number of ground truth segments without a match."""
        return self.totals[2]

    @property
    def fp_per_class(self) -> np.ndarray:
        """float64 [num_categories]: number of predicted segments without a match that are not forgiven."""
        return self.totals[3]

    def measures_per_category(self) -> dict[str, np.ndarray]:
        """pq, sq (mean IoU of the matches) and rq (tp / (tp + fn/2 + fp/2)), float64 [num_categories]."""
        iou, tp, fn, fp = self.totals
        sq, rq = ratio_or_zero(iou, tp), ratio_or_zero(tp, tp + 0.5 * fn + 0.5 * fp)
        return {"pq": sq * rq, "sq": sq, "rq": rq}

    def streaming_values(self) -> np.ndarray:
        """float64 [6, num_categories]: pq, sq, rq, tp, fn, fp."""
        return np.stack([*self.measures_per_category().values(), *self.totals[1:]])

    def _totals_of(self, overlaps: Overlaps) -> np.ndarray:
        truth, predicted = overlaps.pair_truth, overlaps.pair_predicted
        iou = _iou(overlaps)
        match = overlaps.same_category & (iou > MATCHING_IOU)
        category = overlaps.truth_category[truth[match]]
        truth_ignored = overlaps.truth_category == self.ids.ignored_label
        missed = ~truth_ignored
        missed[truth[match]] = False
        forgiven = overlaps.predicted_areas(truth_ignored[truth]) / overlaps.predicted_areas()
        false = forgiven <= FORGIVEN_SHARE
        false[predicted[match]] = False
        return np.stack(
            [
                self._by_category(category, iou[match]),
                self._by_category(category),
                self._by_category(overlaps.truth_category[missed]),
                self._by_category(overlaps.predicted_category[false]),
            ]
        )

    def _seen(self) -> np.ndarray:
        return self.totals[1:].sum(axis=0) != 0


def _iou(overlaps: Overlaps) -> np.ndarray:
    """float64, of each pair; infinite where void itself is predicted exactly, as in the reference."""
    on_void = overlaps.predicted_areas(overlaps.truth_is_void[overlaps.pair_truth])
    outside_void = overlaps.predicted_areas() - on_void
    union = (
        overlaps.truth_areas()[overlaps.pair_truth] + outside_void[overlaps.pair_predicted] - overlaps.pixels
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return overlaps.pixels / union
