"""What Panoptic Quality and Parsing Covering share: totals by category, and means over categories.

Source: reference fact 6.9.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from deeplab.errors import UserError
from deeplab.evaluation.panoptic.overlaps import Overlaps, SegmentIds, find_overlaps

NEARLY_ZERO = 1e-10
# totals are kept as whole numbers of these, far below the last bit of any area or IoU
STEPS = 1 << 100


class Accumulator(ABC):
    """Totals by category over any number of images.

    Attributes:
        ids: categories, the ignored one, and how segments are numbered.
        totals: float64 [len(total_names), num_categories]; to add up over processes, merge. The sum behind it is
            exact, so that it does not depend on the order of images or merges.
    """

    measure_names: ClassVar[tuple[str, ...]]
    total_names: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        num_categories: int,
        ignored_label: int,
        *,
        max_instances_per_category: int = 256,
        offset: int | None = None,
    ) -> None:
        """Start at zero.

        Args:
            num_categories: number of categories, at least 1.
            ignored_label: category that is ignored; may lie beyond the categories; negative: none.
            max_instances_per_category: more than the highest instance number.
            offset: more than the highest predicted segment id. Default: as large as needed.

        Raises:
            UserError: a number below 1.
        """
        if offset is None:
            offset = (max(num_categories, ignored_label) + 1) * max_instances_per_category
        for name, value in (
            ("num_categories", num_categories),
            ("max_instances_per_category", max_instances_per_category),
            ("offset", offset),
        ):
            if value < 1:
                raise UserError(f"{name} is {value}", allowed="1 or more")
        self.ids = SegmentIds(num_categories, ignored_label, max_instances_per_category, offset)
        self.reset()

    def reset(self) -> None:
        """Forget every image."""
        self._steps = np.full((len(self.total_names), self.ids.num_categories), 0, object)

    @property
    def totals(self) -> np.ndarray:
        """See the class."""
        return (self._steps / STEPS).astype(np.float64)

    def add(self, totals: np.ndarray) -> None:
        """Add totals, as another accumulator of one image has them."""
        self._steps = self._steps + _whole_steps(totals)

    def compare_and_accumulate(
        self,
        groundtruth_category: np.ndarray,
        groundtruth_instance: np.ndarray,
        predicted_category: np.ndarray,
        predicted_instance: np.ndarray,
    ) -> float:
        """Count one image, and give the result over all images so far.

        Args:
            groundtruth_category, groundtruth_instance, predicted_category, predicted_instance: integers
                [H, W]; categories 0..num_categories-1 or the ignored label, instances
                0..max_instances_per_category-1. Instance 0 of the ignored category is void.

        Returns:
            See `result`.

        Raises:
            UserError: sizes differ, or a value is out of range; nothing is counted then.
        """
        truth = self.ids.combine(groundtruth_category, groundtruth_instance, what="ground truth")
        predicted = self.ids.combine(predicted_category, predicted_instance, what="prediction")
        self.add(self._totals_of(find_overlaps(truth, predicted, ids=self.ids)))
        return self.result()

    def merge(self, other: Self) -> None:
        """Add the images of another accumulator of the same kind.

        Raises:
            UserError: its kind, categories or options differ.
        """
        if type(self) is not type(other) or self._options() != other._options():
            raise UserError(
                f"cannot merge {type(other).__name__} {other._options()} into {type(self).__name__} "
                f"{self._options()}",
                allowed="the same kind and options",
            )
        self._steps = self._steps + other._steps

    def result(self) -> float:
        """Mean over the valid categories, 0..1; 0 if there is none."""
        values, valid = self.result_per_category(), self.valid_categories()
        return float(values[valid].mean()) if valid.any() else 0.0

    def result_per_category(self) -> np.ndarray:
        """float64 [num_categories], 0 where nothing was counted.

        The ignored category's value means nothing (it can exceed 1 or be infinite) and enters no mean.
        """
        return self.measures_per_category()[self.measure_names[0]]

    def valid_categories(self) -> np.ndarray:
        """bool [num_categories]: seen, and not ignored."""
        valid = self._seen()
        if 0 <= self.ids.ignored_label < self.ids.num_categories:
            valid[self.ids.ignored_label] = False
        return valid

    def detailed_results(self, is_thing: Sequence[bool] | None = None) -> dict[str, dict[str, float]]:
        """Means over all valid categories and, if `is_thing` tells them apart, over things and stuff.

        Args:
            is_thing: of each category, whether it is a thing.

        Returns:
            "All" (and "Things", "Stuff"): the measures by name, 0..1, and "n", the number of categories.

        Raises:
            UserError: `is_thing` is not as long as there are categories.
        """
        valid = self.valid_categories()
        sets = {"All": valid}
        if is_thing is not None:
            things = np.asarray(is_thing, dtype=bool)
            if things.shape != valid.shape:
                raise UserError(
                    f"is_thing has shape {things.shape}",
                    allowed=f"one value for each of {len(valid)} categories",
                )
            sets |= {"Things": valid & things, "Stuff": valid & ~things}
        measures = self.measures_per_category()
        return {name: _means(measures, chosen) for name, chosen in sets.items()}

    @abstractmethod
    def measures_per_category(self) -> dict[str, np.ndarray]:
        """float64 [num_categories] of each of `measure_names`."""

    @abstractmethod
    def streaming_values(self) -> np.ndarray:
        """Everything by category in one array, as the reference's streaming operations return it."""

    @abstractmethod
    def _totals_of(self, overlaps: Overlaps) -> np.ndarray:
        """float64 [len(total_names), num_categories] of one image."""

    @abstractmethod
    def _seen(self) -> np.ndarray:
        """bool [num_categories]: whether anything was counted."""

    def _options(self) -> tuple[object, ...]:
        """What two accumulators must agree on to be merged."""
        return (self.ids,)

    def _by_category(self, category: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Sums by category; an ignored label beyond the categories falls away."""
        sums = np.bincount(category, weights=weights, minlength=self.ids.num_categories)
        return sums[: self.ids.num_categories].astype(np.float64)


def ratio_or_zero(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and 0 where `whole` is nearly 0."""
    empty = np.abs(whole) < NEARLY_ZERO
    return np.where(empty, 0.0, part / np.where(empty, 1.0, whole))


def _whole_steps(totals: np.ndarray) -> np.ndarray:
    """Python's integers, which add without rounding; the ignored category's infinite IoU stays what it is."""

    def steps(value: float) -> float:
        return int(math.ldexp(value, 100)) if math.isfinite(value) else value

    return np.array([[steps(value) for value in row] for row in totals.tolist()], object)


def _means(measures: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, float]:
    count = int(chosen.sum())
    means = {name: float(values[chosen].mean()) if count else 0.0 for name, values in measures.items()}
    return {**means, "n": count}
