"""Panoptic Quality and Parsing Covering: by hand, against a plain loop over segments, invariants, errors."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deeplab.errors import UserError
from deeplab.evaluation.panoptic import PanopticQuality, ParsingCovering
from deeplab.evaluation.panoptic.tables import print_detailed_results

COUNT = 4
BOTH = (PanopticQuality, ParsingCovering)


def row(*runs: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Categories and instances of one row of pixels, from (pixels, category, instance)."""
    lengths, categories, instances = zip(*runs, strict=True)
    return np.repeat([categories], lengths, axis=1), np.repeat([instances], lengths, axis=1)


# 20 pixels: a thing of 10, one of 4, 2 of void, a crowd of 4 (ignored, but not void).
TRUTH = row((10, 1, 0), (4, 2, 0), (2, 0, 0), (4, 0, 1))
PREDICTED = row((8, 1, 3), (4, 2, 0), (2, 1, 0), (2, 1, 3), (2, 1, 0), (2, 2, 1))


def test_panoptic_quality_by_hand() -> None:
    measure = PanopticQuality(3, 0)
    # Segment (1, 3): 8 of 10 pixels, its 2 on void are no part of the union: IoU 8 / (10 + 10 - 8 - 2).
    # (2, 0): IoU 2 / (4 + 4 - 2), so one missed and one false. (1, 0): half on the crowd, which is not
    # more than half: false. (2, 1): all on the crowd: forgiven.
    assert measure.compare_and_accumulate(*TRUTH, *PREDICTED) == pytest.approx(4 / 15, rel=1e-12)
    assert measure.iou_per_class.tolist() == [0, 0.8, 0]
    assert measure.tp_per_class.tolist() == [0, 1, 0]
    assert measure.fn_per_class.tolist() == [0, 0, 1]
    assert measure.fp_per_class.tolist() == [0, 1, 1]
    assert measure.result_per_category() == pytest.approx([0, 8 / 15, 0])
    assert measure.valid_categories().tolist() == [False, True, True]
    assert measure.detailed_results([False, True, False]) == {
        "All": pytest.approx({"pq": 4 / 15, "sq": 0.4, "rq": 1 / 3, "n": 2}),
        "Things": pytest.approx({"pq": 8 / 15, "sq": 0.8, "rq": 2 / 3, "n": 1}),
        "Stuff": {"pq": 0, "sq": 0, "rq": 0, "n": 1},
    }
    expected = [[0, 8 / 15, 0], [0, 0.8, 0], [0, 2 / 3, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]]
    np.testing.assert_allclose(measure.streaming_values(), expected, rtol=1e-12)


def test_parsing_covering_by_hand() -> None:
    # Only the first 14 pixels are judged: IoU 8 / 10 on 10 pixels, 2 / 6 on 4.
    raw, normed = ParsingCovering(3, 0, normalize_by_image_size=False), ParsingCovering(3, 0)
    for measure, size in ((raw, 1), (normed, 20)):
        assert measure.compare_and_accumulate(*TRUTH, *PREDICTED) == pytest.approx(17 / 30, rel=1e-12)
        expected = [[0, 0.8, 1 / 3], [0, 8 / size, 4 / 3 / size], [0, 10 / size, 4 / size]]
        np.testing.assert_allclose(measure.streaming_values(), expected, rtol=1e-12)
    assert raw.detailed_results([False, True, False])["Stuff"] == pytest.approx({"pc": 1 / 3, "n": 1})
    # a perfect picture of 10 pixels: as much as the other by pixels, twice as much by share
    perfect = row((10, 1, 5))
    raw.compare_and_accumulate(*perfect, *perfect)
    normed.compare_and_accumulate(*perfect, *perfect)
    assert raw.result_per_category()[1] == pytest.approx((8 + 10) / (10 + 10), rel=1e-12)
    assert normed.result_per_category()[1] == pytest.approx((8 / 20 + 1) / (10 / 20 + 1), rel=1e-12)


@pytest.mark.parametrize("kind", BOTH)
def test_the_ignored_label_may_lie_beyond_the_categories(kind: type) -> None:
    inside, beyond = kind(3, 0), kind(3, 255)
    inside.compare_and_accumulate(*TRUTH, *PREDICTED)
    moved = np.where(TRUTH[0] == 0, 255, TRUTH[0])
    beyond.compare_and_accumulate(moved, TRUTH[1], *PREDICTED)
    np.testing.assert_array_equal(inside.totals, beyond.totals)
    # predicting it is no false category either
    assert kind(3, 255).compare_and_accumulate(moved, TRUTH[1], moved, TRUTH[1]) == 1


def test_without_an_ignored_label_void_is_a_category() -> None:
    measure = PanopticQuality(3, -1)
    measure.compare_and_accumulate(*TRUTH, *PREDICTED)
    assert measure.fn_per_class.tolist() == [2, 0, 1]
    assert measure.fp_per_class.tolist() == [0, 1, 2]
    assert measure.iou_per_class.tolist() == [0, 8 / 12, 0]
    assert measure.valid_categories().all()


def test_void_predicted_exactly_spoils_no_mean() -> None:
    truth = row((3, 0, 0), (5, 1, 0))
    measure = PanopticQuality(2, 0)
    assert measure.compare_and_accumulate(*truth, *truth) == 1
    assert np.isinf(measure.result_per_category()[0])


@pytest.mark.parametrize("kind", BOTH)
def test_ids_beyond_32_bits(kind: type) -> None:
    """In 32 bits, category 256 of 4096 instances is 0 again."""
    measure = kind(300, 0, max_instances_per_category=4096)
    assert measure.compare_and_accumulate(*row((5, 256, 9), (5, 1, 0)), *row((5, 1, 9), (5, 1, 0))) < 1
    assert measure.valid_categories().nonzero()[0].tolist() == [1, 256]
    assert measure.result_per_category()[256] == 0


@pytest.mark.parametrize("kind", BOTH)
def test_nothing_counted_is_zero(kind: type) -> None:
    measure = kind(3, 0)
    assert measure.result() == 0
    ignored = row((4, 0, 0))
    assert measure.compare_and_accumulate(*ignored, *row((4, 1, 0))) == 0
    assert measure.detailed_results()["All"]["n"] == 0


maps = arrays(np.uint16, (4, 5), elements=st.integers(0, COUNT - 1))
pictures = st.tuples(maps, maps, maps, maps)


def segments(category: np.ndarray, instance: np.ndarray) -> dict[tuple[int, int], set[int]]:
    """The pixels of each segment."""
    found: dict[tuple[int, int], set[int]] = {}
    for place, key in enumerate(zip(category.ravel().tolist(), instance.ravel().tolist(), strict=True)):
        found.setdefault(key, set()).add(place)
    return found


def quality_by_loop(truth: dict, predicted: dict) -> np.ndarray:
    totals = np.zeros((4, COUNT))
    void = truth.get((0, 0), set())
    ignored = set().union(*(pixels for (category, _), pixels in truth.items() if category == 0))
    matched = set()
    for ours, theirs in product(truth, predicted):
        union = len(truth[ours] | (predicted[theirs] - void))
        common = len(truth[ours] & predicted[theirs])
        if ours[0] == theirs[0] != 0 and common / union > 0.5:
            matched |= {("truth", ours), ("predicted", theirs)}
            totals[:2, ours[0]] += common / union, 1
    for key in truth:
        totals[2, key[0]] += ("truth", key) not in matched
    for key, pixels in predicted.items():
        totals[3, key[0]] += ("predicted", key) not in matched and len(pixels & ignored) <= len(pixels) / 2
    return totals[:, 1:]


def covering_by_loop(truth: dict, predicted: dict) -> np.ndarray:
    totals = np.zeros((2, COUNT))
    judged = set().union(*(pixels for (category, _), pixels in truth.items() if category != 0))
    for (category, _), pixels in truth.items():
        rivals = [other & judged for (theirs, _), other in predicted.items() if theirs == category]
        best = max((len(pixels & other) / len(pixels | other) for other in rivals), default=0)
        totals[:, category] += len(pixels) * best, len(pixels)
    return totals[:, 1:]


@settings(max_examples=60, deadline=None)
@given(pictures)
def test_agrees_with_a_loop_over_sets_of_pixels(picture: tuple[np.ndarray, ...]) -> None:
    truth, predicted = segments(*picture[:2]), segments(*picture[2:])
    quality = PanopticQuality(COUNT, 0, max_instances_per_category=COUNT, offset=COUNT**2)
    covering = ParsingCovering(COUNT, 0, max_instances_per_category=7, normalize_by_image_size=False)
    quality.compare_and_accumulate(*picture)
    covering.compare_and_accumulate(*picture)
    np.testing.assert_allclose(quality.totals[:, 1:], quality_by_loop(truth, predicted), rtol=1e-12)
    np.testing.assert_allclose(covering.totals[:, 1:], covering_by_loop(truth, predicted), rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(pictures, min_size=2, max_size=4), st.sampled_from(BOTH))
def test_merged_accumulators_are_one(several: list, kind: type) -> None:
    whole, first, second = kind(COUNT, 1), kind(COUNT, 1), kind(COUNT, 1)
    for number, picture in enumerate(several):
        whole.compare_and_accumulate(*picture)
        (second if number else first).compare_and_accumulate(*picture)
    first.merge(second)
    np.testing.assert_allclose(first.streaming_values(), whole.streaming_values(), rtol=1e-12)
    assert first.result() == pytest.approx(whole.result(), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(pictures, st.permutations(range(COUNT)), st.permutations(range(1, COUNT)), st.sampled_from(BOTH))
def test_instance_numbers_mean_nothing(picture: tuple, new: list, new_truth: list, kind: type) -> None:
    """But for void, which is instance 0 of the ignored category in the ground truth."""
    truth, truth_instance, predicted, predicted_instance = picture
    plain, renamed = kind(COUNT, 0), kind(COUNT, 0)
    plain.compare_and_accumulate(*picture)
    renamed.compare_and_accumulate(
        truth, np.array([0, *new_truth])[truth_instance], predicted, np.array(new)[predicted_instance]
    )
    np.testing.assert_allclose(plain.totals[:, 1:], renamed.totals[:, 1:], rtol=1e-12)


@settings(max_examples=15, deadline=None)
@given(maps, maps, st.sampled_from(BOTH))
def test_the_truth_itself_is_perfect(category: np.ndarray, instance: np.ndarray, kind: type) -> None:
    measure = kind(COUNT + 1, 0)
    assert measure.compare_and_accumulate(category + 1, instance, category + 1, instance) == pytest.approx(1)


def test_reset_forgets() -> None:
    measure = PanopticQuality(3, 0)
    measure.compare_and_accumulate(*TRUTH, *PREDICTED)
    measure.reset()
    assert not measure.totals.any()


@pytest.mark.parametrize(
    ("truth", "predicted", "said"),
    [
        (TRUTH, row((20, 3, 0)), r"prediction has category 3 on 20 pixels; allowed: 0\.\.2, and 0"),
        (row((20, -1, 0)), PREDICTED, "ground truth has category -1"),
        (TRUTH, row((20, 1, 256)), r"prediction has instance 256; allowed: 0\.\.255"),
        (TRUTH, row((19, 1, 0)), "20 pixels, the prediction 19"),
        (TRUTH, (PREDICTED[0], PREDICTED[1][:, 1:]), r"\(1, 20\), instances \(1, 19\)"),
        (TRUTH, (PREDICTED[0] / 1, PREDICTED[1]), "float64; allowed: integers"),
    ],
)
def test_wrong_maps_are_refused_and_count_nothing(truth: tuple, predicted: tuple, said: str) -> None:
    measure = PanopticQuality(3, 0)
    with pytest.raises(UserError, match=said):
        measure.compare_and_accumulate(*truth, *predicted)
    assert not measure.totals.any()


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UserError, match="num_categories is 0"):
        PanopticQuality(0, 0)
    with pytest.raises(UserError, match="offset 256 is too small for the predicted segment id 513"):
        PanopticQuality(3, 0, offset=256).compare_and_accumulate(*TRUTH, *PREDICTED)
    with pytest.raises(UserError, match="cannot merge ParsingCovering"):
        PanopticQuality(3, 0).merge(ParsingCovering(3, 0))
    with pytest.raises(UserError, match="cannot merge"):
        ParsingCovering(3, 0).merge(ParsingCovering(3, 0, normalize_by_image_size=False))
    with pytest.raises(UserError, match=r"shape \(2,\); allowed: one value for each of 3"):
        PanopticQuality(3, 0).detailed_results([True, False])


def test_printed_means(capsys: pytest.CaptureFixture[str]) -> None:
    measure = PanopticQuality(3, 0)
    measure.compare_and_accumulate(*TRUTH, *PREDICTED)
    print_detailed_results(measure, [False, True, False])
    lines = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["All", "26.7", "40.0", "33.3", "2"] in lines
    assert ["Things", "53.3", "80.0", "66.7", "1"] in lines
