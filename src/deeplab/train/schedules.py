"""Learning rate by step, in float32 as the reference computes it (fact 6.3).

The last steps of a poly schedule are only a few rounding errors above the floor, so the type matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from deeplab.errors import UserError

Policy = Literal["poly", "step", "cosine", "multi_steps"]
SlowStart = Literal["constant", "linear"]

f32 = np.float32


def learning_rate(
    step: int,
    *,
    policy: Policy = "poly",
    base: float,
    total_steps: int,
    power: float = 0.9,
    end: float = 0.0,
    decay_steps: int = 0,
    decay_step: int = 2000,
    decay_factor: float = 0.1,
    boundaries: Sequence[int] = (),
    rates: Sequence[float] = (),
    slow_start_steps: int = 0,
    slow_start_rate: float = 1e-4,
    slow_start: SlowStart = "constant",
) -> float:
    """Learning rate of training step `step` (0 is the first).

    Args:
        step: steps already done.
        policy: poly, step, cosine, or multi_steps.
        base: the rate at the start of the policy (multi_steps: only where a linear slow start leads).
        total_steps: length of the training.
        power: of poly.
        end: floor of poly.
        decay_steps: length of poly; 0 is `total_steps - slow_start_steps`.
        decay_step: of step: steps between two multiplications by `decay_factor`.
        decay_factor: of step.
        boundaries: of multi_steps: rates[i] holds up to and including boundaries[i].
        rates: of multi_steps: one more than `boundaries`.
        slow_start_steps: first steps, at `slow_start_rate`; the policy starts after them.
        slow_start_rate: see above.
        slow_start: "constant", or "linear" from `slow_start_rate` up to `base`.

    Returns:
        The rate: a float32 value, as a Python float.

    Raises:
        UserError: an unknown policy or slow start, or boundaries and rates that do not fit.
    """
    if slow_start not in get_args(SlowStart):
        raise UserError(f"slow start {slow_start!r} is unknown", allowed=", ".join(get_args(SlowStart)))
    done = max(step - slow_start_steps, 0)
    length = total_steps - slow_start_steps
    if policy == "poly":
        rate = _poly(done, base=base, end=end, power=power, length=decay_steps or length)
    elif policy == "step":
        rate = f32(base) * f32(decay_factor) ** f32(done // decay_step)
    elif policy == "cosine":
        rate = _cosine(done, base=base, length=length)
    elif policy == "multi_steps":
        rate = _multi_steps(done, boundaries=boundaries, rates=rates)
    else:
        raise UserError(f"learning rate policy {policy!r} is unknown", allowed=", ".join(get_args(Policy)))
    if step < slow_start_steps:
        climbed = f32(step) / f32(slow_start_steps) if slow_start == "linear" else f32(0)
        rate = f32(slow_start_rate) + (f32(base) - f32(slow_start_rate)) * climbed
    return float(rate)


def _share_done(done: int, length: int) -> np.float32:
    return f32(min(done, length)) / f32(length) if length > 0 else f32(1)


def _poly(done: int, *, base: float, end: float, power: float, length: int) -> np.float32:
    left = f32(1) - _share_done(done, length)
    return (f32(base) - f32(end)) * left ** f32(power) + f32(end)


def _cosine(done: int, *, base: float, length: int) -> np.float32:
    angle = f32(np.pi) * _share_done(done, length)
    return f32(base) * (f32(0.5) * (f32(1) + np.cos(angle)))


def _multi_steps(done: int, *, boundaries: Sequence[int], rates: Sequence[float]) -> np.float32:
    if len(rates) != len(boundaries) + 1 or list(boundaries) != sorted(boundaries):
        raise UserError(
            f"multi_steps has boundaries {list(boundaries)} and rates {list(rates)}",
            allowed="rising boundaries and one rate more than boundaries",
        )
    return f32(rates[int(np.searchsorted(boundaries, done, side="left"))])
