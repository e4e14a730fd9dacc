"""The confusion matrix and what is read off it: hand-computed values, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab.errors import UserError
from deeplab.evaluation.metrics import CONVENTIONS, ConfusionMatrix


def matrix(labels, predictions, num_classes, **options):
    result = ConfusionMatrix(num_classes, **options)
    result.update(np.array(labels), np.array(predictions))
    return result


def test_everything_by_hand():
    # Label 0: two right, one taken for 1. Label 1: one right. Label 2: never labelled, predicted once
    # in place of 1. Class 3 nowhere. One pixel ignored.
    confusion = matrix([0, 0, 0, 1, 1, 255], [0, 0, 1, 1, 2, 3], 4)
    assert confusion.counts.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert confusion.counts.dtype == np.int64
    assert confusion.iou_per_class()[:2].tolist() == pytest.approx([2 / 3, 1 / 3], rel=1e-12)
    assert np.isnan(confusion.iou_per_class()[2:]).all()
    # Class 2 has a union (predicted), so it counts as zero; class 3 has none.
    assert confusion.mean_iou() == pytest.approx((2 / 3 + 1 / 3 + 0) / 3, rel=1e-12)
    assert confusion.accuracy_per_class()[:2].tolist() == pytest.approx([2 / 3, 1 / 2], rel=1e-12)
    assert confusion.mean_accuracy() == pytest.approx((2 / 3 + 1 / 2) / 2, rel=1e-12)
    assert confusion.pixel_accuracy() == pytest.approx(3 / 5, rel=1e-12)
    assert confusion.frequency_weighted_iou() == pytest.approx((3 * 2 / 3 + 2 * 1 / 3) / 5, rel=1e-12)


def test_counts_agree_with_a_loop():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 5, (2, 3, 17, 11))
    labels[rng.random(labels.shape) < 0.2] = 255
    expected = np.zeros((5, 5), dtype=int)
    for label, prediction in zip(labels.ravel(), predictions.ravel(), strict=True):
        if label != 255:
            expected[label, prediction] += 1
    for convert in (
        lambda x: x,
        lambda x: x.astype(np.uint8),
        lambda x: x.astype(np.uint16),
        lambda x: torch.tensor(x),
        lambda x: torch.tensor(x, dtype=torch.uint8),
    ):
        confusion = ConfusionMatrix(5)
        confusion.update(convert(labels), convert(predictions))
        np.testing.assert_array_equal(confusion.counts, expected)


def test_adding_equals_updating_twice():
    first, second = matrix([0, 1], [0, 0], 2), matrix([1, 1], [1, 0], 2)
    both = matrix([0, 1, 1, 1], [0, 0, 1, 0], 2)
    assert ((first + second).counts == both.counts).all()
    assert first.counts.sum() == 2
    with pytest.raises(UserError, match=r"2 classes .* and 3 classes"):
        first + ConfusionMatrix(3)


def test_nothing_counted():
    confusion = matrix([255, 255], [0, 1], 2)
    assert confusion.mean_iou() == 0 and np.isnan(confusion.iou_per_class()).all()
    assert np.isnan(
        [confusion.pixel_accuracy(), confusion.mean_accuracy(), confusion.frequency_weighted_iou()]
    ).all()
    confusion.update(np.zeros((0,), np.uint8), np.zeros((0,), np.uint8))
    assert confusion.counts.sum() == 0


def test_ignore_label_inside_the_class_range():
    # ADE20K: label 0 is ignored, predicting 0 on a valid pixel is a class with zero IoU.
    confusion = matrix([0, 1, 1], [1, 1, 0], 2, ignore_label=0)
    assert confusion.counts.tolist() == [[0, 0], [1, 1]]
    assert confusion.mean_iou() == pytest.approx(0.25)


def test_more_than_256_classes():
    confusion = matrix([299, 5], [299, 298], 300, ignore_label=-1)
    assert confusion.counts[299, 299] == 1 and confusion.counts[5, 298] == 1 and confusion.counts.sum() == 2


@pytest.mark.parametrize(
    "labels, predictions, message",
    [
        ([0, 7], [0, 0], r"label 7 is no class \(1 pixels\); allowed: 0\.\.2, and 255"),
        ([0, 0], [0, 3], r"prediction 3 is no class"),
        ([0, -1], [0, 0], r"label -1 is out of range"),
        ([0, 999], [0, 0], r"label 999 is out of range"),
        ([0, 0], [0.0, 1.0], r"predictions are float64"),
        ([0, 0], [0, 0, 0], r"labels are \(2,\), predictions \(3,\)"),
    ],
)
def test_wrong_input_is_named_and_not_counted(labels, predictions, message):
    confusion = ConfusionMatrix(3)
    with pytest.raises(UserError, match=message):
        confusion.update(np.array(labels), np.array(predictions))
    assert confusion.counts.sum() == 0


def test_predictions_under_ignored_labels_do_not_matter():
    assert matrix([255, 0], [200, 0], 3).counts.sum() == 1


def test_no_classes_makes_no_sense():
    with pytest.raises(UserError, match="0 classes"):
        ConfusionMatrix(0)


def test_conventions_differ_only_for_classes_without_a_labelled_pixel():
    # IoU 2/3, 1/3; class 2 only predicted; class 3 nowhere
    confusion = matrix([0, 0, 0, 1, 1, 255], [0, 0, 1, 1, 2, 3], 4)
    assert confusion.mean_iou("reference") == confusion.mean_iou("cityscapes") == confusion.mean_iou()
    assert confusion.mean_iou("cityscapes") == pytest.approx((2 / 3 + 1 / 3 + 0) / 3, rel=1e-12)
    assert confusion.mean_iou("labelled") == pytest.approx((2 / 3 + 1 / 3) / 2, rel=1e-12)
    assert np.isnan(confusion.mean_iou("voc"))
    without_class_3 = matrix([0, 0, 0, 1, 1], [0, 0, 1, 1, 2], 3)
    assert without_class_3.mean_iou("voc") == pytest.approx(1 / 3, rel=1e-12)
    full = matrix([0, 0, 1, 2], [0, 1, 1, 2], 3)
    assert {full.mean_iou(convention) for convention in CONVENTIONS} == {(1 / 2 + 1 / 2 + 1) / 3}
    nothing = ConfusionMatrix(2)
    assert [str(nothing.mean_iou(convention)) for convention in CONVENTIONS] == ["0.0", "nan", "nan", "nan"]
    with pytest.raises(UserError, match="'server' is unknown; allowed: reference, cityscapes, voc, labelled"):
        full.mean_iou("server")


def server_scores(counts):
    """IoU by class as the Cityscapes server's script computes it, in a loop; NaN without a union."""
    scores = []
    for own in range(len(counts)):
        hits = counts[own][own]
        missed = sum(counts[own]) - hits
        false = sum(row[own] for row in counts) - hits
        whole = hits + missed + false
        scores.append(hits / whole if whole else float("nan"))
    return scores


MAPS = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(max_examples=60, deadline=None)
@given(MAPS, st.integers(1, 6))
def test_mean_iou_is_the_servers(random, num_classes):
    labels, predictions = random.integers(0, num_classes, (2, 40)) * random.integers(0, 2)
    labels[random.random(40) < 0.3] = 255
    confusion = matrix(labels, predictions, num_classes)
    scores = server_scores(confusion.counts.tolist())
    valid = [score for score in scores if score == score]
    expected = sum(valid) / len(valid) if valid else float("nan")
    assert confusion.mean_iou("cityscapes") == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert confusion.mean_iou("voc") == pytest.approx(sum(scores) / num_classes, rel=1e-12, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(MAPS, st.integers(1, 6), st.integers(0, 40))
def test_order_of_classes_and_pixels_does_not_matter(random, num_classes, cut):
    labels, predictions = random.integers(0, num_classes, (2, 40))
    labels[random.random(40) < 0.2] = 255
    whole = matrix(labels, predictions, num_classes)
    parts = matrix(labels[:cut], predictions[:cut], num_classes)
    parts = parts + matrix(labels[cut:], predictions[cut:], num_classes)
    np.testing.assert_array_equal(parts.counts, whole.counts)
    renamed = random.permutation(num_classes)
    table = np.append(renamed, np.full(256 - num_classes, 255))
    other = matrix(table[labels], table[predictions], num_classes)
    assert other.mean_iou() == pytest.approx(whole.mean_iou(), rel=1e-12)
    assert other.mean_accuracy() == pytest.approx(whole.mean_accuracy(), rel=1e-12, nan_ok=True)
    assert other.frequency_weighted_iou() == pytest.approx(
        whole.frequency_weighted_iou(), rel=1e-12, nan_ok=True
    )
    np.testing.assert_array_equal(other.iou_per_class()[renamed], whole.iou_per_class())
