"""What must hold for every measure, whatever the pictures: names, batches, order of merging, ignored pixels."""

from __future__ import annotations

import functools
import operator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab.evaluation.bootstrap import mean_iou_interval
from deeplab.evaluation.boundaries import Boundaries
from deeplab.evaluation.calibration import Calibration
from deeplab.evaluation.metrics import CONVENTIONS, ConfusionMatrix
from deeplab.evaluation.panoptic import PanopticQuality, ParsingCovering
from deeplab.evaluation.photo_by_photo import Result
from deeplab.evaluation.report.scores import Scores
from deeplab.evaluation.report.summary import summarise
from deeplab.prediction.strips import Labelled

CLASSES, VOID = 4, 255
NAMES = tuple("abcd")
RANDOM = st.integers(0, 2**32 - 1).map(np.random.default_rng)


class Picture(NamedTuple):
    """labels uint8 [H, W] with void, predictions uint8 [H, W], confidence float32 [H, W]."""

    labels: np.ndarray
    predictions: np.ndarray
    confidence: np.ndarray


def picture(random: np.random.Generator, height: int = 11, width: int = 13) -> Picture:
    """Blocks of three pixels, so that there are outlines and insides; classes may be missing."""
    present = random.integers(0, CLASSES, random.integers(1, CLASSES + 1))
    coarse = random.choice(present, (2, height // 3 + 1, width // 3 + 1))
    labels, predictions = coarse.repeat(3, axis=1).repeat(3, axis=2)[:, :height, :width].astype(np.uint8)
    labels[random.random(labels.shape) < 0.1] = VOID
    return Picture(labels, predictions, random.random(labels.shape, np.float32))


def pictures(random: np.random.Generator, count: int) -> list[Picture]:
    return [picture(random, *random.integers(5, 14, 2)) for _ in range(count)]


def scores(numbered: list[tuple[int, Picture]]) -> Scores:
    """Every measure of `deeplab eval`, over pictures with their numbers."""
    boundaries = Boundaries(CLASSES, widths=(1, 3), tolerance_share=0.1)
    result = Scores(CLASSES, boundaries=boundaries, calibration=Calibration())
    for number, (labels, predictions, confidence) in numbered:
        own = ConfusionMatrix(CLASSES)
        own.update(labels, predictions)
        found = Labelled(torch.from_numpy(predictions).long(), torch.from_numpy(confidence))
        result.update(number, str(number), Result(np.zeros((1, 1, 3), np.uint8), labels, found, own))
    return result


def said(whole: Scores) -> str:
    """All numbers, every digit of them."""
    interval = mean_iou_interval(whole.images, resamples=20)
    return repr(summarise(whole, NAMES, settings={}, interval=interval))


@settings(max_examples=25, deadline=None)
@given(RANDOM, st.integers(2, 6), st.integers(1, 4))
def test_any_parts_merged_in_any_order_are_the_whole_to_the_last_bit(random, count, parts) -> None:
    numbered = list(enumerate(pictures(random, count)))
    owner = random.integers(0, parts, count)
    shares = [
        [numbered[at] for at in random.permutation(count) if owner[at] == part] for part in range(parts)
    ]
    several = [scores(share) for share in shares]
    random.shuffle(several)
    left = functools.reduce(operator.add, several)
    right = functools.reduce(lambda total, part: part + total, several)
    assert said(left) == said(right) == said(scores(numbered))


@settings(max_examples=25, deadline=None)
@given(RANDOM, st.integers(1, 5), st.integers(0, 5))
def test_a_batch_is_its_images(random, count, cut) -> None:
    stack = Picture(*map(np.stack, zip(*(picture(random) for _ in range(count)), strict=True)))
    whole, parts = ConfusionMatrix(CLASSES), ConfusionMatrix(CLASSES)
    sure, sure_parts = Calibration(bins=7), Calibration(bins=7)
    whole.update(torch.from_numpy(stack.labels), torch.from_numpy(stack.predictions))
    sure.update(*stack)
    for share in (slice(0, cut), slice(cut, None)):
        parts.update(stack.labels[share], stack.predictions[share])
        sure_parts.update(*(values[share] for values in stack))
    np.testing.assert_array_equal(parts.counts, whole.counts)
    np.testing.assert_array_equal(sure_parts.counts, sure.counts)


@settings(max_examples=25, deadline=None)
@given(RANDOM)
def test_what_is_predicted_under_ignored_pixels_counts_nowhere(random) -> None:
    """But for the boundary F-score, which may find an outline that lies on void."""
    first = picture(random)
    ignored = first.labels == VOID
    predictions = np.where(ignored, random.integers(0, CLASSES, ignored.shape), first.predictions)
    confidence = np.where(ignored, random.random(ignored.shape, np.float32), first.confidence)
    second = Picture(first.labels, predictions.astype(np.uint8), confidence)
    one, other = scores([(0, first)]), scores([(0, second)])
    np.testing.assert_array_equal(one.confusion.counts, other.confusion.counts)
    np.testing.assert_array_equal(one.images.table(), other.images.table())
    np.testing.assert_array_equal(one.calibration.counts, other.calibration.counts)
    np.testing.assert_array_equal(one.boundaries.depth_counts, other.boundaries.depth_counts)
    assert repr(one.boundaries.trimap()) == repr(other.boundaries.trimap())
    assert one.confusion.counts.sum() == one.calibration.counts[0].sum() == (~ignored).sum()


@settings(max_examples=15, deadline=None)
@given(RANDOM, st.integers(0, 3))
def test_a_picture_of_ignored_pixels_changes_nothing(random, place) -> None:
    several = pictures(random, 3)
    blank = picture(random)
    blank.labels[:] = VOID
    # a prediction of one class has no outline to be judged
    blank.predictions[:] = place
    with_blank = [*several[:place], blank, *several[place:]]
    one, other = (
        summarise(scores(list(enumerate(chosen))), NAMES, settings={}) for chosen in (several, with_blank)
    )
    assert (one.pop("photos"), other.pop("photos")) == (3, 4)
    assert one == other


@settings(max_examples=25, deadline=None)
@given(RANDOM, st.permutations(range(CLASSES)))
def test_renamed_classes_rename_the_results(random, new) -> None:
    several = pictures(random, 3)
    table = np.append(new, np.full(256 - CLASSES, VOID)).astype(np.uint8)
    renamed = [Picture(table[one.labels], table[one.predictions], one.confidence) for one in several]
    before, after = scores(list(enumerate(several))), scores(list(enumerate(renamed)))
    np.testing.assert_array_equal(after.confusion.counts[np.ix_(new, new)], before.confusion.counts)
    np.testing.assert_array_equal(
        after.confusion.accuracy_per_class()[list(new)], before.confusion.accuracy_per_class()
    )
    np.testing.assert_array_equal(after.boundaries.depth_counts[:, list(new)], before.boundaries.depth_counts)
    np.testing.assert_array_equal(after.calibration.counts, before.calibration.counts)
    assert after.confusion.pixel_accuracy() == before.confusion.pixel_accuracy()
    for convention in CONVENTIONS:
        intervals = [
            mean_iou_interval(each.images, resamples=10, convention=convention) for each in (before, after)
        ]
        assert tuple(intervals[1]) == pytest.approx(tuple(intervals[0]), rel=1e-12, nan_ok=True)


SEGMENTS = 3


def panoptic(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Categories and instances of ground truth and prediction, [6, 8]."""
    maps = random.integers(0, (CLASSES, SEGMENTS, CLASSES, SEGMENTS), (3, 4, 4)).transpose(2, 0, 1)
    return tuple(maps.repeat(2, axis=1).repeat(2, axis=2))


@settings(max_examples=25, deadline=None)
@given(RANDOM, st.permutations(range(CLASSES)), st.sampled_from([PanopticQuality, ParsingCovering]))
def test_renamed_categories_rename_the_results(random, new, kind) -> None:
    """The ignored one among them."""
    before, after = kind(CLASSES, 0), kind(CLASSES, new[0])
    for _ in range(2):
        truth, truth_instance, predicted, predicted_instance = panoptic(random)
        before.compare_and_accumulate(truth, truth_instance, predicted, predicted_instance)
        renamed = np.array(new)[truth], truth_instance, np.array(new)[predicted], predicted_instance
        after.compare_and_accumulate(*renamed)
    judged = list(range(1, CLASSES))
    theirs = [new[category] for category in judged]
    np.testing.assert_allclose(
        after.streaming_values()[:, theirs], before.streaming_values()[:, judged], rtol=1e-12
    )
    assert after.result() == pytest.approx(before.result(), rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(RANDOM, st.sampled_from([PanopticQuality, ParsingCovering]))
def test_a_picture_of_void_adds_no_segment(random, kind) -> None:
    measure = kind(CLASSES, 0)
    measure.compare_and_accumulate(*panoptic(random))
    before = measure.streaming_values()[:, 1:]
    _, _, predicted, instance = panoptic(random)
    measure.compare_and_accumulate(np.zeros_like(predicted), np.zeros_like(instance), predicted, instance)
    np.testing.assert_array_equal(measure.streaming_values()[:, 1:], before)


@settings(max_examples=20, deadline=None)
@given(RANDOM, st.integers(2, 6), st.sampled_from([PanopticQuality, ParsingCovering]))
def test_accumulators_merged_in_any_order_are_one_to_the_last_bit(random, count, kind) -> None:
    several = [panoptic(random) for _ in range(count)]
    whole, parts = kind(CLASSES, 0), [kind(CLASSES, 0) for _ in range(3)]
    for maps in several:
        whole.compare_and_accumulate(*maps)
    for at in random.permutation(count):
        parts[random.integers(0, 3)].compare_and_accumulate(*several[at])
    merged = kind(CLASSES, 0)
    for at in random.permutation(3):
        merged.merge(parts[at])
    assert merged.streaming_values().tobytes() == whole.streaming_values().tobytes()
    assert merged.result() == whole.result()
