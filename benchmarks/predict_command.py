"""The whole command on many photos, from its start to the last file, beside a script that does without this package.

    python benchmarks/predict_command.py PHOTOS [--model animals] [--most 100] [--rounds 5]

The script (`harness.peer_command`) runs the same network in OpenVINO with upsampling and argmax inside the program, and
reads and writes with Pillow. Everybody starts a new process for every round, reads the same files, and writes label
maps with a palette and overlays; programs were converted before. Label maps are compared before times are printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from harness.machine import machine
from harness.preparation import PhotoToLabels
from harness.process import BENCHMARKS, environment
from harness.results import markdown
from PIL import Image

from deeplab.imaging.photos import find_photos
from deeplab.model.checkpoint import load
from deeplab.prediction.runtimes.openvino import missing_operators
from deeplab.prediction.runtimes.program import EXAMPLE_SHAPE

PEER = "script with OpenVINO and Pillow"
LEAST_EQUAL = 0.999


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--model", default="animals")
    parser.add_argument("--most", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    photos = [str(path.resolve()) for path in find_photos(options.photos)][: options.most]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = converted(options.model, folder)
        commands = {PEER: ("harness.peer_command", program, folder / PEER, *photos)}
        for engine in ("torch", "openvino"):
            words = ("deeplab", "predict", *photos, "--model", options.model, "--engine", engine)
            commands[f"deeplab predict, {engine}"] = (*words, "--device", "cpu", "-o", folder / engine)
        # the first fills caches on the disk, and is where labels are compared
        one_round(commands, threads=options.threads)
        agreement = {
            f"deeplab predict, {engine}": equality(folder / PEER, folder / engine)
            for engine in ("torch", "openvino")
        }
        rounds = [one_round(commands, threads=options.threads) for _ in range(options.rounds)]
    about = machine()
    print(
        f"{about['processor']} ({', '.join(about['features'])}), {options.threads} threads; {len(photos)} photos\n"
    )
    rows = []
    for name in commands:
        seconds = statistics.median(each[name] for each in rounds)
        faster = statistics.median(each[PEER] / each[name] for each in rounds)
        rows.append([name, f"{seconds:.2f}", f"{faster:.2f}x", agreement.get(name, "")])
    print(markdown(["command", "seconds", "times faster", "labels"], rows))


def converted(model: str, folder: Path) -> Path:
    """The whole task as an OpenVINO program for photos of any size."""
    import openvino

    photos, dynamic = torch.zeros((*EXAMPLE_SHAPE, 3), dtype=torch.uint8), torch.export.Dim.DYNAMIC
    module = PhotoToLabels(load(model)).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            module, (photos,), dynamic_shapes=({0: dynamic, 1: dynamic, 2: dynamic},)
        )
        found = openvino.convert_model(program, extension=missing_operators())
    openvino.save_model(found, os.fspath(folder / "labels.xml"), compress_to_fp16=False)
    return folder / "labels.xml"


def one_round(commands: dict[str, tuple[object, ...]], *, threads: int) -> dict[str, float]:
    """Wall seconds of each, run as a module in a new process.

    Raises:
        CalledProcessError: one failed.
    """
    surroundings, seconds = os.environ | environment(threads), {}
    for name, words in commands.items():
        began = time.perf_counter()
        command = [sys.executable, "-m", *map(str, words)]
        subprocess.run(command, check=True, cwd=BENCHMARKS, env=surroundings, stdout=subprocess.DEVNULL)
        seconds[name] = time.perf_counter() - began
    return seconds


def equality(one: Path, other: Path) -> str:
    """Share of equal labels in all label maps of both folders.

    Raises:
        SystemExit: too few are equal for times to mean anything.
    """
    equal, pixels = 0, 0
    for path in sorted(one.glob("*_labels.png")):
        with Image.open(path) as first, Image.open(other / path.name) as second:
            same = np.array(first) == np.array(second)
        equal, pixels = equal + int(same.sum()), pixels + same.size
    if equal < LEAST_EQUAL * pixels:
        raise SystemExit(f"{other.name}: only {equal / pixels:.3%} of labels are equal: no times are printed")
    return f"{equal / pixels:.4%} equal"


if __name__ == "__main__":
    main()
