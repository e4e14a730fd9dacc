"""Learning rates worked out by hand, and the part of a recipe that names them."""

import math

import pytest

from deeplab.errors import UserError
from deeplab.train.recipe.schedule import ScheduleRecipe, scheduled_rate
from deeplab.train.schedules import learning_rate


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


def test_recipe_names_the_schedule():
    recipe = ScheduleRecipe(policy="step", decay_step=3, decay_factor=0.5, slow_start_steps=2)
    rates = [scheduled_rate(step, recipe, base=8.0, total_steps=99) for step in (0, 1, 2, 4, 5, 8)]
    assert rates == pytest.approx([0, 4, 8, 8, 4, 2])
    poly = [scheduled_rate(step, ScheduleRecipe(), base=1.0, total_steps=4) for step in (0, 1, 4)]
    assert poly == pytest.approx([1, 0.75**0.9, 0], rel=1e-6)
    held = ScheduleRecipe(
        policy="multi_steps", boundaries=[2], rates=[5, 1], slow_start_steps=1, slow_start="constant"
    )
    assert [scheduled_rate(step, held, base=9.0, total_steps=9) for step in range(5)] == [0, 5, 5, 5, 1]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"policy": "poli"}, "poly"),
        ({"policy": "multi_steps", "boundaries": [1]}, "one rate more"),
        ({"boundaries": [1], "rates": [1, 2]}, "go with policy multi_steps; found poly"),
        ({"slow_start_step": 9}, "slow_start_step"),
    ],
)
def test_recipe_refuses_what_makes_no_schedule(settings, message):
    with pytest.raises(ValueError, match=message):
        ScheduleRecipe(**settings)
