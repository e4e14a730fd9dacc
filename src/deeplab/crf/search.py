"""Coarse-to-fine search for w1, sigma_alpha and sigma_beta (v1 section 5.1, v2 section 4.1); w2, sigma_gamma stay.

A grid over the ranges first; then grids of the same size over ever smaller boxes around the best, half a grid step
to each side.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from deeplab.crf.config import SEARCHED, CRFConfig, SearchRanges
from deeplab.errors import UserError

DIGITS = 4
Box = tuple[tuple[float, float], ...]


class Trial(NamedTuple):
    """Parameters tried in a round, counted from 1, and the mean IoU that they gave."""

    round: int
    parameters: CRFConfig
    mean_iou: float


def best_of(trials: list[Trial]) -> Trial:
    """The highest mean IoU; among equals the first tried."""
    return max(trials, key=lambda trial: trial.mean_iou)


def at_an_edge(best: CRFConfig, ranges: SearchRanges) -> dict[str, float]:
    """Parameters whose best value is the lowest or highest that was allowed, by name: better ones may lie beyond."""
    return {
        name: getattr(best, name)
        for name in ("w1", "sigma_alpha", "sigma_beta")
        if getattr(ranges, name)[0] < getattr(ranges, name)[1]
        and getattr(best, name) in getattr(ranges, name)
    }


def coarse_to_fine(
    score: Callable[[CRFConfig], float],
    *,
    ranges: SearchRanges = SEARCHED,
    grid: int = 3,
    rounds: int = 2,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """All that was tried, in order; at most rounds * grid ** 3. Nothing is tried twice.

    Args:
        score: mean IoU of parameters, 0..1.
        ranges: where to look.
        grid: values of each parameter in a round, >= 1; 1 takes the middle.
        rounds: grids, >= 1.
        on_trial: called after each.

    Raises:
        UserError: a range that is empty or reaches 0, grid < 1, rounds < 1.
    """
    box = checked_box(ranges, grid, rounds)
    trials: list[Trial] = []
    tried: set[CRFConfig] = set()
    for number in range(1, rounds + 1):
        values = [_spread(low, high, grid) for low, high in box]
        for w1, alpha, beta in itertools.product(*values):
            parameters = CRFConfig(
                w1=w1, sigma_alpha=alpha, sigma_beta=beta, w2=ranges.w2, sigma_gamma=ranges.sigma_gamma
            )
            if parameters in tried:
                continue
            tried.add(parameters)
            trials.append(Trial(number, parameters, score(parameters)))
            on_trial(trials[-1])
        box = _around(best_of(trials).parameters, box, grid)
    return trials


def checked_box(ranges: SearchRanges, grid: int, rounds: int) -> Box:
    """Where the first grid lies: w1, sigma_alpha, sigma_beta.

    Raises:
        UserError: see `coarse_to_fine`.
    """
    if grid < 1 or rounds < 1:
        raise UserError(f"grid {grid}, rounds {rounds}", allowed="1 or more")
    box = {"w1": ranges.w1, "sigma_alpha": ranges.sigma_alpha, "sigma_beta": ranges.sigma_beta}
    for name, (low, high) in box.items():
        if not 0 < low <= high < float("inf"):
            raise UserError(f"range of {name} is {low:g} to {high:g}", allowed="above 0, the lowest first")
    return tuple(box.values())


def _spread(low: float, high: float, grid: int) -> list[float]:
    values = np.linspace(low, high, grid) if grid > 1 else [(low + high) / 2]
    return sorted({float(f"{value:.{DIGITS}g}") for value in values})


def _around(best: CRFConfig, box: Box, grid: int) -> Box:
    """Half a grid step to each side of the best, within the box before."""
    centres = (best.w1, best.sigma_alpha, best.sigma_beta)
    halves = [(high - low) / max(grid - 1, 2) / 2 for low, high in box]
    return tuple(
        (max(low, centre - half), min(high, centre + half))
        for (low, high), centre, half in zip(box, centres, halves, strict=True)
    )
