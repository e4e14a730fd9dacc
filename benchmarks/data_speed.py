"""Training samples a second and core, beside torchvision's transforms v2, albumentations and OpenCV.

    python -m venv PEERS
    PEERS/bin/pip install albumentations opencv-python-headless pillow
    PEERS/bin/pip install --no-deps torch torchvision   (as constraints-peers.txt says)
    python benchmarks/data_speed.py ROOT SPLIT --peers PEERS/bin/python

A sample is: photo and mask decoded, scaled by one of seven factors 0.5..2, padded, cropped, flipped, normalised; see
`data_variants`. With data.keep_decoded photo and mask are mapped from disk, as in every epoch after the first. Each
variant is a process of one thread; they take turns, processor time is what counts (others may be at work on the
machine), and ratios are medians over rounds.
Before anything is timed the crops of our ways must have equal values. The peers' resizing differs from ours, and from
each other's, by up to half a pixel's shift: their values are compared with nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness.machine import machine
from harness.process import Variant, VariantFailedError, Worker
from harness.rounds import LEAST_SECONDS

from deeplab.data.opening import open_complete

LEAST_ROUNDS = 5
OURS, PLAIN, KEPT = "deeplab", "deeplab, no compiler", "deeplab, data.keep_decoded"
PEERS = {
    "torchvision transforms v2": "torchvision_v2",
    "albumentations": "albumentations",
    "OpenCV in steps (mmsegmentation)": "opencv_steps",
    "OpenCV, one warpAffine": "opencv_warp",
}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="a data set of photos and index masks")
    parser.add_argument("split")
    parser.add_argument("--peers", default=sys.executable, help="Python of an environment that has them")
    parser.add_argument("--pairs", type=int, default=28)
    parser.add_argument("--side", type=int, default=513)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    source = open_complete(options.root, options.split)
    pairs = [source.files(index) for index in range(min(options.pairs, len(source)))]
    common = {
        "pairs": [tuple(str(Path(file).resolve()) for file in pair) for pair in pairs],
        "side": options.side,
    }
    print(f"{machine()['processor']}; {len(pairs)} pairs of {options.root.name}, crops of {options.side}")
    with tempfile.TemporaryDirectory() as folder:
        variants = [
            Variant(OURS, "data_variants", "ours", common),
            Variant(PLAIN, "data_variants", "ours", common | {"compiled": False}),
            Variant(KEPT, "data_variants", "ours", common | {"kept": folder}),
            *(
                Variant(name, "data_variants", function, common, options.peers)
                for name, function in PEERS.items()
            ),
        ]
        rounds = measure(variants, Path(folder), seconds=options.seconds)
    print_table(rounds, pairs=len(pairs))


def measure(variants: list[Variant], folder: Path, *, seconds: float) -> list[dict[str, float]]:
    """Processor seconds of one pass by variant, a dict a round, of those variants that can run here.

    Ours must agree with and without a compiler.
    """
    workers = []
    for index, variant in enumerate(variants):
        worker = Worker(variant, threads=1, log=folder / f"{index}.txt")
        try:
            worker.wait()
            crop = worker.output(folder)
        except VariantFailedError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if variant.name == OURS:
            expected = crop
        if variant.name in (PLAIN, KEPT) and not np.array_equal(crop, expected):
            raise SystemExit(f"the crop of {variant.name!r} differs: nothing is timed")
        if crop.shape != expected.shape or crop.dtype != np.float32 or np.abs(crop).max() > 1.001:
            raise SystemExit(f"{variant.name} gives {crop.dtype} {crop.shape} up to {np.abs(crop).max():.2f}")
        workers.append(worker)
    rounds, began = [], time.monotonic()
    while len(rounds) < LEAST_ROUNDS or time.monotonic() - began < seconds:
        rounds.append({worker.name: worker.time(LEAST_SECONDS)["processor"] for worker in workers})
    for worker in workers:
        worker.close()
    return rounds


def print_table(rounds: list[dict[str, float]], *, pairs: int) -> None:
    """Samples a second of processor time, and how many times faster ours is, with the rounds' extremes."""
    print(f"{len(rounds)} rounds\n{'':34} {'samples/s':>9} {'ours is faster by':>18}")
    for name in rounds[0]:
        seconds = statistics.median(each[name] for each in rounds)
        ratios = sorted(each[name] / each[OURS] for each in rounds)
        extremes = f"({ratios[0]:.2f}..{ratios[-1]:.2f})"
        print(f"{name:34} {pairs / seconds:9.0f} {statistics.median(ratios):17.2f}x {extremes}")


if __name__ == "__main__":
    main()
