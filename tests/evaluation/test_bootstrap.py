"""Confidence intervals by bootstrap: hand-computed cases, and a loop that draws images one by one."""

from __future__ import annotations

import numpy as np
import pytest

from deeplab.errors import UserError
from deeplab.evaluation.bootstrap import ImageCounts, difference_interval, mean_iou_interval
from deeplab.evaluation.metrics import ConfusionMatrix


def image(labels: list[int], predictions: list[int], num_classes: int = 2) -> ConfusionMatrix:
    confusion = ConfusionMatrix(num_classes)
    confusion.update(np.array(labels), np.array(predictions))
    return confusion


def counts(*images: ConfusionMatrix, first: int = 0) -> ImageCounts:
    result = ImageCounts(images[0].num_classes)
    for number, confusion in enumerate(images, start=first):
        result.update(number, confusion)
    return result


def random_images(seed: int, *, number: int = 12, error: float = 0.3) -> list[tuple[list[int], list[int]]]:
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(number):
        labels = random.integers(0, 3, 50)
        wrong = random.random(50) < error * random.random()
        pairs.append((labels.tolist(), np.where(wrong, (labels + 1) % 3, labels).tolist()))
    return pairs


def test_rows_by_hand() -> None:
    table = counts(image([0, 0, 1, 255], [0, 1, 1, 0])).table()
    assert table.tolist() == [[[1, 1], [2, 1], [1, 2]]]


def test_equal_images_leave_no_doubt() -> None:
    # IoU 1/2 of class 0 and 1/2 of class 1 in every image, so in any draw
    interval = mean_iou_interval(counts(*[image([0, 0, 1], [0, 1, 1])] * 5), resamples=50)
    assert interval == (0.5, 0.5, 0.5, 0.0, 0.95)


def test_two_images_by_hand() -> None:
    # one perfect image and one all wrong; a draw of both has IoU 1/3 in each class, so draws are 0, 1/3, 1 with
    # probabilities 1/4, 1/2, 1/4: mean 5/12, variance 1/18 + 1/4 - 25/144 = 19/144
    data = counts(image([0, 1], [0, 1]), image([0, 1], [1, 0]))
    interval = mean_iou_interval(data, resamples=4000, confidence=0.9)
    assert (interval.estimate, interval.low, interval.high) == (pytest.approx(1 / 3), 0, 1)
    assert interval.standard_error == pytest.approx(np.sqrt(19) / 12, abs=0.01)


def test_the_interval_is_that_of_images_drawn_one_by_one() -> None:
    images = [image(*pair, num_classes=3) for pair in random_images(0)]
    interval = mean_iou_interval(counts(*images), resamples=1500, seed=3)
    random = np.random.default_rng(77)
    draws = []
    for _ in range(1500):
        total = np.zeros((3, 3), int)
        for _ in images:
            total += images[random.integers(len(images))].counts
        scores = [total[k, k] / (total[k].sum() + total[:, k].sum() - total[k, k]) for k in range(3)]
        draws.append(sum(scores) / 3)
    assert interval.standard_error == pytest.approx(np.std(draws), rel=0.1)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert interval.low == pytest.approx(low, abs=0.006) and interval.high == pytest.approx(high, abs=0.006)
    assert interval.low < interval.estimate < interval.high
    assert interval.estimate == pytest.approx(sum(images[1:], images[0]).mean_iou(), rel=1e-12)


def test_parts_in_any_order_give_the_same_to_the_last_bit() -> None:
    images = [image(*pair, num_classes=3) for pair in random_images(1)]
    whole = counts(*images)
    parts = counts(*images[5:], first=5) + counts(*images[:5])
    assert mean_iou_interval(parts, resamples=40) == mean_iou_interval(whole, resamples=40)
    assert mean_iou_interval(whole, resamples=40, seed=1) != mean_iou_interval(whole, resamples=40)
    with pytest.raises(UserError, match=r"images in both: \[0, 1"):
        whole + parts


def test_a_paired_difference_sees_what_two_intervals_do_not() -> None:
    worse = random_images(2, error=0.9)
    # the second model corrects one wrong pixel in each image
    better = []
    for labels, predictions in worse:
        wrong = [k for k in range(50) if labels[k] != predictions[k]][:1]
        better.append((labels, [labels[k] if k in wrong else predictions[k] for k in range(50)]))
    one = counts(*(image(*pair, num_classes=3) for pair in better))
    other = counts(*(image(*pair, num_classes=3) for pair in worse))
    difference = difference_interval(one, other, resamples=300)
    assert difference.low > 0
    alone, against = mean_iou_interval(one, resamples=300), mean_iou_interval(other, resamples=300)
    assert alone.low < against.high
    assert difference.estimate == alone.estimate - against.estimate
    assert difference_interval(one, one, resamples=20)[:4] == (0, 0, 0, 0)


def test_mistakes_are_named() -> None:
    one, other = counts(image([0, 1], [0, 1])), counts(image([0, 0], [0, 1]))
    with pytest.raises(UserError, match="not of the same ground truth"):
        difference_interval(one, other)
    with pytest.raises(UserError, match="no image was evaluated"):
        mean_iou_interval(ImageCounts(2))
    with pytest.raises(UserError, match="0 resamples"):
        mean_iou_interval(one, resamples=0)
    with pytest.raises(UserError, match=r"confidence 95"):
        mean_iou_interval(one, confidence=95)
