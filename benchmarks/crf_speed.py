"""The fully connected CRF beside pydensecrf2: equal outputs first, then time in interleaved rounds.

    pip install pydensecrf2
    python benchmarks/crf_speed.py PHOTO --size 500x375x21 --size 1024x2048x19

Everything counts on both sides: unary energies, lattices, ten iterations. Wall time depends on what else the machine
does; processor time says what the work costs, on however many cores it runs. Both sides keep freed memory, as the
commands of this package do.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydensecrf.densecrf as peer
import torch
from PIL import Image

from deeplab.allocator import keep_freed_memory
from deeplab.crf import CRFConfig, chosen_engine, dense_crf

SETTINGS = {
    "w1 4, 67, 3; w2 3, 1": CRFConfig(),
    "w1 4, 50, 5; w2 3, 3": CRFConfig(sigma_alpha=50, sigma_beta=5, sigma_gamma=3),
}
MOST_DIFFERENCE, LEAST_EQUAL_LABELS = 6e-3, 0.9999


class Took(NamedTuple):
    """Seconds of one run."""

    wall: float
    processor: float


def main() -> None:
    """Prints a Markdown table: one line a size and setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photo", type=Path)
    parser.add_argument("--size", action="append", help="WIDTHxHEIGHTxCLASSES; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--setting", type=int, choices=range(len(SETTINGS)), help="default: all")
    options = parser.parse_args()
    keep_freed_memory()
    print(
        f"{_processor()}, {os.cpu_count()} cores; torch {torch.__version__} with {torch.get_num_threads()} threads, "
        f"pydensecrf2 {version('pydensecrf2')}; engine {chosen_engine()}; medians of {options.rounds} rounds\n"
    )
    print(
        "| size | parameters | peer, s | ours, s | times as fast | by processor time | marginals | equal labels |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    chosen = list(SETTINGS.items())
    if options.setting is not None:
        chosen = chosen[options.setting : options.setting + 1]
    for size in options.size or ["500x375x21"]:
        width, height, classes = (int(number) for number in size.split("x"))
        photo = np.array(Image.open(options.photo).convert("RGB").resize((width, height)))
        for name, config in chosen:
            row = compare(_probabilities(classes, photo), photo, config, options.rounds)
            print(f"| {size} | {name} | {row} |", flush=True)


def compare(probabilities: np.ndarray, photo: np.ndarray, config: CRFConfig, rounds: int) -> str:
    """Checks that both give the same, then runs them in turn."""

    def ours() -> np.ndarray:
        return dense_crf(probabilities, photo, parameters=config).numpy()

    def theirs() -> np.ndarray:
        return _peer(probabilities, photo, config)

    found, expected = ours(), theirs()
    difference = float(np.abs(found - expected).max())
    labels = float((found.argmax(0) == expected.argmax(0)).mean())
    if difference > MOST_DIFFERENCE or labels < LEAST_EQUAL_LABELS:
        raise SystemExit(f"outputs differ: marginals by {difference:.2g}, equal labels {labels:.6f}")
    pairs = [(_took(theirs), _took(ours)) for _ in range(rounds)]
    wall = statistics.median(their.wall / our.wall for their, our in pairs)
    processor = statistics.median(their.processor / our.processor for their, our in pairs)
    seconds = [statistics.median(pair[side].wall for pair in pairs) for side in (0, 1)]
    return f"{seconds[0]:.3f} | {seconds[1]:.3f} | {wall:.2f} | {processor:.2f} | {difference:.1g} | {labels:.6f}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return told[0] if told else platform.machine()


def _peer(probabilities: np.ndarray, photo: np.ndarray, config: CRFConfig) -> np.ndarray:
    classes, height, width = probabilities.shape
    crf = peer.DenseCRF2D(width, height, classes)
    energies = -np.log(np.clip(probabilities, 1e-5, 1)).reshape(classes, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(energies))
    crf.addPairwiseGaussian(sxy=config.sigma_gamma, compat=config.w2)
    crf.addPairwiseBilateral(sxy=config.sigma_alpha, srgb=config.sigma_beta, rgbim=photo, compat=config.w1)
    return np.array(crf.inference(10)).reshape(probabilities.shape)


def _probabilities(classes: int, photo: np.ndarray) -> np.ndarray:
    """Smooth scores of made-up classes, as a network's upsampled logits are."""
    height, width = photo.shape[:2]
    generator = torch.Generator().manual_seed(0)
    coarse = 3 * torch.randn(1, classes, height // 16 + 2, width // 16 + 2, generator=generator)
    scores = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return scores[0].softmax(0).numpy()


def _took(run: Callable[[], np.ndarray]) -> Took:
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return Took(time.perf_counter() - wall, time.process_time() - processor)


if __name__ == "__main__":
    main()
