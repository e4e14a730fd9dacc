"""Calibration: hand-computed bins, a plain loop, and sums that do not depend on the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab.errors import UserError
from deeplab.evaluation.calibration import Calibration


def calibration(labels, predictions, confidence, **options) -> Calibration:
    result = Calibration(**options)
    result.update(np.array(labels), np.array(predictions), np.array(confidence, np.float32))
    return result


def test_by_hand() -> None:
    # bin 0.25..0.5: one pixel, wrong; bin 0.75..1: three pixels, two right; one pixel ignored
    result = calibration([0, 1, 1, 0, 255], [1, 1, 1, 1, 0], [0.25, 0.75, 1.0, 0.875, 0.6], bins=4)
    first, second, third, last = result.reliability()
    assert (first.pixels, third.pixels) == (0, 0) and np.isnan([first.confidence, third.accuracy]).all()
    assert second == (0.25, 0.5, 1, 0.25, 0.0)
    assert last == (0.75, 1.0, 3, 0.875, pytest.approx(2 / 3))
    assert result.expected_error() == pytest.approx((1 * 0.25 + 3 * (0.875 - 2 / 3)) / 4, abs=1e-12)
    assert result.maximum_error() == pytest.approx(0.25, abs=1e-12)


def test_a_sure_model_that_is_right_is_calibrated() -> None:
    assert calibration([0, 1], [0, 1], [1.0, 1.0]).expected_error() == 0
    assert calibration([0, 1], [1, 0], [1.0, 1.0]).expected_error() == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(0, 60))
def test_a_loop_and_parts_agree(seed: int, bins: int, cut: int) -> None:
    random = np.random.default_rng(seed)
    labels, predictions = random.integers(0, 3, (2, 60))
    labels[random.random(60) < 0.2] = 255
    confidence = random.random(60).astype(np.float32)
    whole = calibration(labels, predictions, confidence, bins=bins)
    groups: dict[int, list[tuple[bool, float]]] = {}
    for label, prediction, sure in zip(labels, predictions, confidence.tolist(), strict=True):
        if label != 255:
            groups.setdefault(int(sure * bins), []).append((bool(label == prediction), sure))
    gaps = [
        abs(sum(right for right, _ in group) - sum(sure for _, sure in group)) for group in groups.values()
    ]
    expected = sum(gaps) / sum(len(group) for group in groups.values())
    assert whole.expected_error() == pytest.approx(expected, abs=1e-6)
    tail = calibration(labels[cut:], predictions[cut:], confidence[cut:], bins=bins)
    head = calibration(labels[:cut], predictions[:cut], confidence[:cut], bins=bins)
    for parts in (head + tail, tail + head):
        assert (parts.counts == whole.counts).all() and parts.expected_error() == whole.expected_error()


def test_nothing_counted() -> None:
    result = calibration([255], [0], [0.5])
    assert np.isnan([result.expected_error(), result.maximum_error()]).all()


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="pass probabilities, not logits"):
        calibration([0], [0], [3.5])
    with pytest.raises(UserError, match="pass probabilities"):
        calibration([0], [0], [np.nan])
    with pytest.raises(UserError, match=r"confidences \(1,\)"):
        calibration([0, 1], [0, 1], [0.5])
    with pytest.raises(UserError, match="0 bins"):
        Calibration(bins=0)
    with pytest.raises(UserError, match="15 and 10 bins"):
        Calibration() + Calibration(bins=10)
