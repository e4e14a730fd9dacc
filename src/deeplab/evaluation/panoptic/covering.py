"""Parsing Covering: how well each region is covered by its best prediction, weighted by area.

Source: reference fact 6.9; Yang et al., DeeperLab (arXiv 1902.05093), section 4.
"""

from __future__ import annotations

import numpy as np

from deeplab.evaluation.panoptic.accumulator import Accumulator, ratio_or_zero
from deeplab.evaluation.panoptic.overlaps import Overlaps


class ParsingCovering(Accumulator):
    """Covering by category, sum(area * best IoU) / sum(area), and its mean over the categories in the truth.

    Pixels whose ground truth is of the ignored category count in no area.
    """

    measure_names = ("pc",)
    total_names = ("weighted_iou", "gt_area")

    def __init__(
        self,
        num_categories: int,
        ignored_label: int,
        *,
        max_instances_per_category: int = 256,
        offset: int | None = None,
        normalize_by_image_size: bool = True,
    ) -> None:
        """Start at zero.

        Args:
            num_categories, ignored_label, max_instances_per_category, offset: see `Accumulator`.
            normalize_by_image_size: areas are shares of their image, so that large images weigh no more.
        """
        super().__init__(
            num_categories,
            ignored_label,
            max_instances_per_category=max_instances_per_category,
            offset=offset,
        )
        self.normalize_by_image_size = normalize_by_image_size

    @property
    def weighted_iou_per_class(self) -> np.ndarray:
        """float64 [num_categories]: sum of area times best IoU."""
        return self.totals[0]

    @property
    def gt_area_per_class(self) -> np.ndarray:
        """float64 [num_categories]: sum of the regions' areas, in pixels or in shares of images."""
        return self.totals[1]

    def measures_per_category(self) -> dict[str, np.ndarray]:
        """pc, float64 [num_categories]."""
        return {"pc": ratio_or_zero(*self.totals)}

    def streaming_values(self) -> np.ndarray:
        """float64 [3, num_categories]: covering, weighted IoU, ground truth area."""
        return np.stack([self.result_per_category(), *self.totals])

    def _totals_of(self, overlaps: Overlaps) -> np.ndarray:
        judged = overlaps.truth_category != self.ids.ignored_label
        areas = overlaps.truth_areas() * judged
        pair_judged = judged[overlaps.pair_truth]
        chosen = pair_judged & overlaps.same_category
        truth, predicted = overlaps.pair_truth[chosen], overlaps.pair_predicted[chosen]
        pixels = overlaps.pixels[chosen]
        best = np.zeros(len(areas))
        union = areas[truth] + overlaps.predicted_areas(pair_judged)[predicted] - pixels
        np.maximum.at(best, truth, pixels / union)
        if self.normalize_by_image_size:
            areas = areas / overlaps.size
        category = overlaps.truth_category
        return np.stack([self._by_category(category, best * areas), self._by_category(category, areas)])

    def _seen(self) -> np.ndarray:
        return self.totals[1] != 0

    def _options(self) -> tuple[object, ...]:
        return (self.ids, self.normalize_by_image_size)
