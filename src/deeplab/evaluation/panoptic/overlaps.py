"""Which segments of ground truth and prediction overlap, and on how many pixels (reference fact 6.9).

A segment's id is category * max_instances_per_category + instance. The reference keeps
ground truth id * offset + predicted id in 32 bits, which wrap for many categories; here they are 64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeplab.errors import UserError


@dataclass(frozen=True)
class SegmentIds:
    """How segments are numbered, and which category is ignored.

    Attributes:
        num_categories: categories are 0..num_categories-1.
        ignored_label: category that is ignored; it may lie beyond the categories, such as 255; a negative
            one ignores nothing.
        max_instances_per_category: instances are 0..max_instances_per_category-1.
        offset: larger than every predicted segment's id.
    """

    num_categories: int
    ignored_label: int
    max_instances_per_category: int
    offset: int

    def combine(self, category: np.ndarray, instance: np.ndarray, *, what: str) -> np.ndarray:
        """int64 [H * W]: each pixel's segment id.

        Raises:
            UserError: shapes differ, values are no integers, or a category or instance is out of range.
        """
        category, instance = np.asarray(category), np.asarray(instance)
        if category.shape != instance.shape or not category.size:
            raise UserError(
                f"categories of the {what} are {category.shape}, instances {instance.shape}",
                allowed="two maps of one size with at least one pixel",
            )
        for name, values in (("categories", category), ("instances", instance)):
            if values.dtype.kind not in "iu":
                raise UserError(f"{name} of the {what} are {values.dtype}", allowed="integers")
        self._check_categories(category, what=what)
        low, high = int(instance.min()), int(instance.max())
        if low < 0 or high >= self.max_instances_per_category:
            raise UserError(
                f"the {what} has instance {low if low < 0 else high}",
                allowed=f"0..{self.max_instances_per_category - 1}",
                fix="raise max_instances_per_category",
            )
        ids = category.astype(np.int64) * self.max_instances_per_category + instance.astype(np.int64)
        return ids.ravel()

    def _check_categories(self, category: np.ndarray, *, what: str) -> None:
        wrong = (category < 0) | ((category >= self.num_categories) & (category != self.ignored_label))
        if wrong.any():
            raise UserError(
                f"the {what} has category {category[wrong].flat[0]} on {int(wrong.sum())} pixels",
                allowed=f"0..{self.num_categories - 1}, and {self.ignored_label} for what is ignored",
            )


@dataclass(frozen=True)
class Overlaps:
    """Every pair of overlapping segments, and the segments themselves.

    Attributes:
        truth_category, predicted_category: int64, category of each ground truth or predicted segment.
        truth_is_void: bool, of each ground truth segment: instance 0 of the ignored category.
        pair_truth, pair_predicted: int64, indices of the two segments of each pair.
        pixels: int64, common pixels of each pair.
        size: pixels of the image.
    """

    truth_category: np.ndarray
    predicted_category: np.ndarray
    truth_is_void: np.ndarray
    pair_truth: np.ndarray
    pair_predicted: np.ndarray
    pixels: np.ndarray
    size: int

    @property
    def same_category(self) -> np.ndarray:
        """bool, of each pair."""
        return self.truth_category[self.pair_truth] == self.predicted_category[self.pair_predicted]

    def truth_areas(self) -> np.ndarray:
        """float64, pixels of each ground truth segment."""
        return np.bincount(self.pair_truth, weights=self.pixels, minlength=len(self.truth_category))

    def predicted_areas(self, counted: np.ndarray | None = None) -> np.ndarray:
        """float64, pixels of each predicted segment: of all pairs, or of those `counted` (bool by pair)."""
        pixels = self.pixels if counted is None else self.pixels * counted
        return np.bincount(self.pair_predicted, weights=pixels, minlength=len(self.predicted_category))


def find_overlaps(truth: np.ndarray, predicted: np.ndarray, *, ids: SegmentIds) -> Overlaps:
    """Count the pixels of every pair of segments.

    Args:
        truth, predicted: int64 [pixels], segment ids.

    Raises:
        UserError: sizes differ, or a predicted id reaches the offset.
    """
    if truth.shape != predicted.shape:
        raise UserError(
            f"the ground truth has {truth.size} pixels, the prediction {predicted.size}",
            fix="bring the prediction to the size of the ground truth",
        )
    highest = int(predicted.max())
    if highest >= ids.offset:
        raise UserError(
            f"offset {ids.offset} is too small for the predicted segment id {highest}",
            fix="leave the offset out, or make it larger than every id",
        )
    values, lengths = runs(truth * ids.offset + predicted)
    pairs, places = np.unique(values, return_inverse=True)
    truth_ids, pair_truth = np.unique(pairs // ids.offset, return_inverse=True)
    predicted_ids, pair_predicted = np.unique(pairs % ids.offset, return_inverse=True)
    return Overlaps(
        truth_category=truth_ids // ids.max_instances_per_category,
        predicted_category=predicted_ids // ids.max_instances_per_category,
        truth_is_void=truth_ids == ids.ignored_label * ids.max_instances_per_category,
        pair_truth=pair_truth,
        pair_predicted=pair_predicted,
        pixels=np.bincount(places, weights=lengths).astype(np.int64),
        size=truth.size,
    )


def runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal neighbours as one: value and length of each run.

    Segments are long runs, so that what sorts runs instead of pixels takes a fraction of the time.

    Args:
        values: [N], N at least 1.
    """
    starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    return values[starts], np.diff(starts, append=len(values))
