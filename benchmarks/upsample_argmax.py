"""Labels at full size from low-resolution logits: ours against interpolate + argmax, in interleaved rounds.

    python benchmarks/upsample_argmax.py [--rounds 7] [--threads 2]

Logits are random (every class everywhere: nothing can be skipped) or smooth (as networks give them). Before anything
is timed, labels are compared: every difference must lie where the two largest logits are equal up to rounding.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from deeplab.native.upsample_argmax import upsample_argmax

# classes, low-resolution sides, full sides
CASES = [
    (21, (129, 129), (513, 513)),
    (19, (129, 257), (1025, 2049)),
    (150, (129, 257), (1025, 2049)),
]
PATCH = 16
TIE = 1e-5
SIGNIFICANT_SECONDS = 0.05
Labels = Callable[[], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{processor()}, {options.threads} threads, torch {torch.__version__}, {options.rounds} rounds\n")
    print(
        "| classes, sides | logits | pixels that differ (ties) | NCHW ms | NHWC ms | ours ms | times faster |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for classes, sides, size in CASES:
        for kind, make in (("random", random_logits), ("smooth", smooth_logits)):
            row = compare(make(classes, sides), size, rounds=options.rounds)
            print(f"| {classes}, {sides[0]}x{sides[1]} -> {size[0]}x{size[1]} | {kind} | {row} |", flush=True)


def random_logits(classes: int, sides: tuple[int, int]) -> torch.Tensor:
    return torch.randn(1, classes, *sides)


def smooth_logits(classes: int, sides: tuple[int, int]) -> torch.Tensor:
    coarse = tuple(side // PATCH for side in sides)
    return F.interpolate(5 * torch.randn(1, classes, *coarse), sides, mode="bicubic")


def compare(logits: torch.Tensor, size: tuple[int, int], *, rounds: int) -> str:
    """One row of the table: differences, milliseconds of the three, and the ratios of NCHW and NHWC to ours."""
    beside = logits.contiguous(memory_format=torch.channels_last)
    ways: list[Labels] = [
        lambda: interpolated(logits, size).argmax(1),
        lambda: interpolated(beside, size).argmax(1),
        lambda: upsample_argmax(beside, size, "align_corners"),
    ]
    difference = checked(ways[2](), interpolated(logits, size))
    repeats = [max(1, int(SIGNIFICANT_SECONDS / seconds(way, 1))) for way in ways]
    times = [[seconds(way, count) for way, count in zip(ways, repeats, strict=True)] for _ in range(rounds)]
    medians = [f"{1000 * statistics.median(column):.2f}" for column in zip(*times, strict=True)]
    ratios = [statistics.median(each[way] / each[2] for each in times) for way in (0, 1)]
    return " | ".join([str(difference), *medians, f"{ratios[0]:.0f} (NHWC {ratios[1]:.0f})"])


def interpolated(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=True)


def checked(labels: torch.Tensor, full: torch.Tensor) -> int:
    """How many pixels differ.

    Raises:
        SystemExit: one of them is no tie.
    """
    differs = labels.long() != full.argmax(1)
    best = full.topk(2, 1).values
    if (best[:, 0] - best[:, 1])[differs].gt(TIE * full.abs().max()).any():
        raise SystemExit("labels differ where there is no tie: nothing is timed")
    return int(differs.sum())


def seconds(way: Labels, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        way()
    return (time.perf_counter() - start) / count


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    main()
