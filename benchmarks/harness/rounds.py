"""Variants take turns: ratios are taken within a round, where the machine was the same for all.

A round in which something else kept the processors busy is dropped. Where nothing else is left, the quietest rounds
stand, and the result says that it is noisy.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

LEAST_SECONDS = 0.15
GAP_SECONDS = 0.05
# processors' worth of work that others may do in a round
MOST_FOREIGN = 0.15
LEAST_ROUNDS = 3
TICKS = os.sysconf("SC_CLK_TCK")


class Timed(Protocol):
    """A worker, as far as it takes turns."""

    name: str

    def time(self, seconds: float) -> dict[str, float]: ...


class Round(NamedTuple):
    """Wall seconds of one call by variant, and how many processors others kept busy meanwhile."""

    seconds: dict[str, float]
    foreign: float


class Comparison(NamedTuple):
    """Medians over the rounds that count: seconds, and times faster than the reference; spread is the
    interquartile range of the latter over its median."""

    seconds: dict[str, float]
    faster: dict[str, float]
    spread: dict[str, float]
    rounds: int
    dropped: int
    noisy: bool


def take_turns(workers: Sequence[Timed], *, seconds: float, most_rounds: int = 30) -> list[Round]:
    """Rounds until `seconds` are over, at least LEAST_ROUNDS; each begins with another variant."""
    rounds: list[Round] = []
    began = time.monotonic()
    while len(rounds) < LEAST_ROUNDS or (len(rounds) < most_rounds and time.monotonic() - began < seconds):
        first = len(rounds) % len(workers)
        rounds.append(_round([*workers[first:], *workers[:first]]))
    return rounds


def _round(workers: Sequence[Timed]) -> Round:
    seconds, own, wall, busy = {}, 0.0, 0.0, 0.0
    for worker in workers:
        time.sleep(GAP_SECONDS)
        before, began = busy_seconds(), time.perf_counter()
        sample = worker.time(LEAST_SECONDS)
        wall += time.perf_counter() - began
        busy += busy_seconds() - before
        own += sample["processor"] * sample["calls"]
        seconds[worker.name] = sample["wall"]
    return Round(seconds, max(0.0, busy - own) / wall)


def busy_seconds() -> float:
    """Processor seconds that the whole machine has worked so far (Linux); 0 where nobody counts."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting, *interrupts = (int(field) for field in fields[:8])
    return (user + nice + system + sum(interrupts)) / TICKS


def children_seconds() -> float:
    """Processor seconds that this process's children have worked so far (Linux); 0 where nobody counts."""
    total = 0.0
    for listed in Path("/proc/self/task").glob("*/children"):
        for child in listed.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def compare(rounds: Sequence[Round], reference: str) -> Comparison:
    """Medians of the quiet rounds, or of the quietest LEAST_ROUNDS."""
    quiet = [each for each in rounds if each.foreign <= MOST_FOREIGN]
    noisy = len(quiet) < LEAST_ROUNDS
    if noisy:
        quiet = sorted(rounds, key=lambda each: each.foreign)[:LEAST_ROUNDS]
    names = quiet[0].seconds
    ratios = {name: [each.seconds[reference] / each.seconds[name] for each in quiet] for name in names}
    faster = {name: statistics.median(values) for name, values in ratios.items()}
    return Comparison(
        seconds={name: statistics.median(each.seconds[name] for each in quiet) for name in names},
        faster=faster,
        spread={name: _interquartile(values) / faster[name] for name, values in ratios.items()},
        rounds=len(quiet),
        dropped=len(rounds) - len(quiet),
        noisy=noisy,
    )


def _interquartile(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first
