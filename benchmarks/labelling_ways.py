"""What each way of labelling costs in mean IoU on a labelled data set, and windows in memory on a large photo.

    python benchmarks/labelling_ways.py DATA --calibration PHOTOS [--model animals] [--window 257 257]
    python benchmarks/labelling_ways.py --photo PHOTO [--sides 1024 2048 4096] [--window 1025 1025]

The first runs `deeplab eval` once a way, each against plain PyTorch on the same photos (1000 bootstrap resamples). The
second enlarges the photo to so many pixels a side and runs `deeplab predict` whole and in windows: peak memory of the
process, and the share of equal labels. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from harness.machine import machine
from PIL import Image

from deeplab.cli.env import version_of

PLAIN = "torch, float32"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", help="the data set's folder; its val split is measured")
    parser.add_argument("--model", default="animals")
    parser.add_argument("--calibration", nargs="+", default=[], help="photos to take int8's ranges from")
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--window", type=int, nargs=2, default=None)
    options = parser.parse_args()
    about = machine()
    versions = ", ".join(
        f"{name} {version_of(name)}" for name in ("torch", "openvino", "onnxruntime", "nncf")
    )
    print(f"{about['processor']} ({', '.join(about['features'])}), {about['cores']} cores; {versions}\n")
    if options.data:
        window = options.window or [257, 257]
        print(evaluations(options.data, options.model, options.calibration, window))
    if options.photo:
        window = options.window or [1025, 1025]
        print(windows(options.photo, options.model, options.sides, window))


def evaluations(data: str, model: str, calibration: list[str], window: list[int]) -> str:
    """A table: mean IoU of each way and the interval of its difference to the first."""
    ways = {
        PLAIN: [],
        "torch, bfloat16": ["--precision", "bfloat16"],
        "onnxruntime, float32": ["--engine", "onnxruntime"],
        "openvino, float32": ["--engine", "openvino"],
        "openvino, bfloat16": ["--engine", "openvino", "--precision", "bfloat16"],
        "torch, int8": ["--precision", "int8", "--calibration", *calibration],
        "openvino, int8": ["--engine", "openvino", "--precision", "int8", "--calibration", *calibration],
        "windows of {} x {}, overlap 0.25".format(*window): ["--window", *window, "--overlap", "0.25"],
    }
    lines = ["| way | mean IoU | difference, 95 % interval |", "| --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as scratch:
        for way, words in ways.items():
            folder = Path(scratch) / way.replace(" ", "-")
            against = [] if way == PLAIN else ["--against", Path(scratch) / PLAIN.replace(" ", "-")]
            command = ["eval", data, "-m", model, "-o", folder, *words, *against, "--worst", "0"]
            if "calibration" in " ".join(map(str, words)) and not calibration:
                continue
            run(command)
            report = json.loads((folder / "results.json").read_text())
            difference = report.get("difference")
            shown = (
                ""
                if difference is None
                else f"{100 * difference['low']:+.2f} to {100 * difference['high']:+.2f}"
            )
            lines.append(f"| {way} | {100 * report['mean IoU']:.2f} | {shown} |")
    return "\n".join(lines)


def windows(photo: Path, model: str, sides: list[int], window: list[int]) -> str:
    """A table: peak memory, whole and in windows, and how many labels are equal."""
    lines = [
        "| photo | peak memory, whole | in windows of {} x {} | equal labels |".format(*window),
        "| --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as scratch, Image.open(photo) as held:
        for side in sides:
            large = Path(scratch) / f"{side}.png"
            held.convert("RGB").resize((side, side), Image.Resampling.BICUBIC).save(large)
            cells, maps = [], []
            for name, words in (("whole", []), ("windows", ["--window", *window, "--overlap", "0.25"])):
                folder = Path(scratch) / f"{name}-{side}"
                peak = run(["predict", large, "-m", model, "-o", folder, *words])
                cells.append(f"{peak / 2**30:.2f} GB")
                with Image.open(folder / f"{side}_labels.png") as labels:
                    maps.append(np.array(labels))
            equal = float((maps[0] == maps[1]).mean())
            lines.append(f"| {side} x {side} | {cells[0]} | {cells[1]} | {equal:.2%} |")
    return "\n".join(lines)


def run(words: list[object]) -> int:
    """Run the command; bytes that its process took at most."""
    command = [sys.executable, "-m", "deeplab", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
