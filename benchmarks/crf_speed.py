"""The fully connected CRF beside pydensecrf2: equal outputs first, then time in interleaved rounds.

    pip install pydensecrf2
    python benchmarks/crf_speed.py PHOTO --size 500x375x21 --size 1024x2048x19

Outputs are equal if 99.99 % of all labels are, and if at 99.99 % of all pixels no marginal differs by more than 6e-3;
the pixels beyond are counted in the table. --judge says who is right: the same lattices and mean field in double
precision, in torch, minutes on large photos.

Everything counts on both sides: unary energies, lattices, ten iterations. Wall time depends on what else the machine
does; processor time says what the work costs, on however many cores it runs. Both sides keep freed memory, as the
commands of this package do; --plain-memory leaves the allocator as it is.
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

from deeplab.crf import CRFConfig, chosen_engine, dense_crf, torch_engine
from deeplab.crf.terms import pairwise_terms
from deeplab.system.memory import keep_freed_memory

SETTINGS = {
    "w1 4, 67, 3; w2 3, 1": CRFConfig(),
    "w1 4, 50, 5; w2 3, 3": CRFConfig(sigma_alpha=50, sigma_beta=5, sigma_gamma=3),
}
MOST_DIFFERENCE, LEAST_EQUAL = 6e-3, 0.9999
COLUMNS = (
    "size|parameters|peer, s|ours, s|times as fast|by processor time|marginals|pixels over 0.006|equal labels"
)
JUDGED = "|ours to double|peer to double"


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
    parser.add_argument("--judge", action="store_true", help="also the mean field in double precision")
    parser.add_argument("--plain-memory", action="store_true", help="do not keep freed memory")
    options = parser.parse_args()
    if not options.plain_memory:
        keep_freed_memory()
    print(
        f"{_processor()}, {os.cpu_count()} cores; torch {torch.__version__} with {torch.get_num_threads()} threads, "
        f"pydensecrf2 {version('pydensecrf2')}; engine {chosen_engine()}; medians of {options.rounds} rounds\n"
    )
    columns = (COLUMNS + JUDGED * options.judge).split("|")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)
    chosen = list(SETTINGS.items())
    if options.setting is not None:
        chosen = chosen[options.setting : options.setting + 1]
    for size in options.size or ["500x375x21"]:
        width, height, classes = (int(number) for number in size.split("x"))
        photo = np.array(Image.open(options.photo).convert("RGB").resize((width, height)))
        for name, config in chosen:
            probabilities = _probabilities(classes, photo)
            cells = compare(probabilities, photo, config, rounds=options.rounds, judge=options.judge)
            print(f"| {' | '.join([size, name, *cells])} |", flush=True)


def compare(
    probabilities: np.ndarray, photo: np.ndarray, config: CRFConfig, *, rounds: int, judge: bool
) -> list[str]:
    """Checks that both give the same, then runs them in turn; cells of the table."""

    def ours() -> np.ndarray:
        return dense_crf(probabilities, photo, parameters=config).numpy()

    def theirs() -> np.ndarray:
        return _peer(probabilities, photo, config)

    found, expected = ours(), theirs()
    equality = _equality(found, expected)
    if judge:
        energies = _energies(probabilities).astype(np.float64)
        truth = torch_engine.mean_field(energies, pairwise_terms(photo, config), iterations=10)
        equality += [f"{np.abs(each - truth).max():.1g}" for each in (found, expected)]
    pairs = [(_took(theirs), _took(ours)) for _ in range(rounds)]
    wall = statistics.median(their.wall / our.wall for their, our in pairs)
    processor = statistics.median(their.processor / our.processor for their, our in pairs)
    seconds = [statistics.median(pair[side].wall for pair in pairs) for side in (0, 1)]
    return [*(f"{each:.3f}" for each in seconds), f"{wall:.2f}", f"{processor:.2f}", *equality]


def _equality(found: np.ndarray, expected: np.ndarray) -> list[str]:
    """Cells of the table, for marginals [classes, H, W].

    Raises:
        SystemExit: they are not equal.
    """
    apart = np.abs(found - expected).max(0)
    beyond = apart > MOST_DIFFERENCE
    labels = float((found.argmax(0) == expected.argmax(0)).mean())
    if beyond.mean() > 1 - LEAST_EQUAL or labels < LEAST_EQUAL:
        raise SystemExit(
            f"outputs differ: marginals by up to {apart.max():.2g}, by more than {MOST_DIFFERENCE} "
            f"at {beyond.mean():.3%} of the pixels, equal labels {labels:.4%}"
        )
    return [f"{apart.max():.1g}", f"{beyond.sum()} of {beyond.size}", f"{labels:.6f}"]


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
    crf.setUnaryEnergy(np.ascontiguousarray(_energies(probabilities).reshape(classes, -1)))
    crf.addPairwiseGaussian(sxy=config.sigma_gamma, compat=config.w2)
    crf.addPairwiseBilateral(sxy=config.sigma_alpha, srgb=config.sigma_beta, rgbim=photo, compat=config.w1)
    return np.array(crf.inference(10)).reshape(probabilities.shape)


def _energies(probabilities: np.ndarray) -> np.ndarray:
    return -np.log(np.clip(probabilities, 1e-5, 1))


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
