"""Learning rates: golden float32 values of the reference, and values worked out by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from deeplab.errors import UserError
from deeplab.train.schedules import learning_rate

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"golden vectors are not at {GOLDEN}")
NAMES = {
    "learning_policy": "policy",
    "base_learning_rate": "base",
    "learning_rate_decay_step": "decay_step",
    "learning_rate_decay_factor": "decay_factor",
    "training_number_of_steps": "total_steps",
    "learning_power": "power",
    "slow_start_step": "slow_start_steps",
    "slow_start_learning_rate": "slow_start_rate",
    "slow_start_burnin_type": "slow_start",
    "end_learning_rate": "end",
    "decay_steps": "decay_steps",
    "boundaries": "boundaries",
    "boundary_learning_rates": "rates",
}


@needs_golden
def test_golden_learning_rates():
    cases = json.loads(str(np.load(GOLDEN / "j_learning_rates_a.npz")["cases"]))
    assert {case["args"]["learning_policy"] for case in cases} == {"poly", "step", "cosine", "multi_steps"}
    for case in cases:
        options = {NAMES[name]: value for name, value in case["args"].items()}
        rates = [learning_rate(step, **options) for step in case["steps"]]
        np.testing.assert_allclose(rates, case["learning_rates_float32"], rtol=1e-6, err_msg=str(options))


def test_poly_by_hand():
    rates = [learning_rate(step, base=0.01, total_steps=100) for step in (0, 50, 100, 500)]
    assert rates == pytest.approx([0.01, 0.01 * 0.5**0.9, 0, 0], rel=1e-6)
    floor = [learning_rate(step, base=0.01, end=0.001, total_steps=100, power=1.0) for step in (50, 100)]
    assert floor == pytest.approx([0.0055, 0.001], rel=1e-6)


def test_step_and_cosine_by_hand():
    step = [learning_rate(s, policy="step", base=1.0, total_steps=9, decay_step=3) for s in (0, 2, 3, 6)]
    assert step == pytest.approx([1, 1, 0.1, 0.01], rel=1e-6)
    cosine = [learning_rate(s, policy="cosine", base=1.0, total_steps=4) for s in range(5)]
    assert cosine == pytest.approx([(1 + math.cos(math.pi * s / 4)) / 2 for s in range(5)], abs=1e-7)


def test_multi_steps_keeps_a_rate_up_to_its_boundary():
    options = {
        "policy": "multi_steps",
        "base": 9.0,
        "total_steps": 9,
        "boundaries": [2, 4],
        "rates": [3, 2, 1],
    }
    assert [learning_rate(step, **options) for step in range(6)] == [3, 3, 3, 2, 2, 1]


def test_slow_start():
    options = {"base": 1.0, "total_steps": 20, "slow_start_steps": 10, "slow_start_rate": 0.5, "power": 1.0}
    assert [learning_rate(s, **options) for s in (0, 9, 10, 15)] == pytest.approx([0.5, 0.5, 1.0, 0.5])
    linear = [learning_rate(s, slow_start="linear", **options) for s in (0, 5, 10)]
    assert linear == pytest.approx([0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"policy": "poli"}, "'poli' is unknown; allowed: poly, step, cosine, multi_steps"),
        ({"slow_start": "cubic"}, "'cubic' is unknown; allowed: constant, linear"),
        ({"policy": "multi_steps", "boundaries": [1], "rates": [0.1]}, "one rate more"),
        ({"policy": "multi_steps", "boundaries": [5, 1], "rates": [1, 2, 3]}, "rising"),
    ],
)
def test_errors_name_what_is_allowed(options, message):
    with pytest.raises(UserError, match=message):
        learning_rate(0, base=0.1, total_steps=10, **options)
