"""The part of a training recipe that says how the learning rate goes, step by step."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from deeplab.config import NonNegative, Positive, Share, Strict
from deeplab.train.schedules import Policy, SlowStart, learning_rate

Steps = Annotated[int, Field(ge=0)]


class ScheduleRecipe(Strict):
    """Poly by default (v2 section 4.1.1: lr * (1 - step / steps)^0.9), without a slow start.

    policy: the base rate falls by `poly` to `end`, by `cosine` to 0, by `step` (times `decay_factor` after
    every `decay_step` steps; v1 section 5.1), or holds rates[i] up to boundaries[i] (`multi_steps`).
    slow_start_steps: first steps, before the policy begins: a `linear` rise from `slow_start_rate` to the
    base rate, or `constant` at `slow_start_rate` (the reference's; fact 6.3).
    """

    policy: Policy = "poly"
    power: NonNegative = 0.9
    end: NonNegative = 0.0
    decay_step: Positive = 2000
    decay_factor: Share = 0.1
    boundaries: tuple[Positive, ...] = ()
    rates: tuple[NonNegative, ...] = ()
    slow_start_steps: Steps = 0
    slow_start_rate: NonNegative = 0.0
    slow_start: SlowStart = "linear"

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.policy == "multi_steps":
            # the function checks them; better now than at the first step
            scheduled_rate(0, self, base=0.0, total_steps=1)
        elif self.boundaries or self.rates:
            raise ValueError(f"boundaries and rates go with policy multi_steps; found {self.policy}")
        return self


def scheduled_rate(step: int, recipe: ScheduleRecipe, *, base: float, total_steps: int) -> float:
    """Learning rate of training step `step` (0 is the first).

    Args:
        step: steps already done.
        recipe: the schedule.
        base: the rate at the start of the policy; of multi_steps, only where a linear slow start leads.
        total_steps: length of the training, slow start included.
    """
    return learning_rate(step, base=base, total_steps=total_steps, **recipe.model_dump())
