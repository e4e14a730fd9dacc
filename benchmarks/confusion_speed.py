"""The confusion matrix of one image beside numpy and torchmetrics: equal counts first, then interleaved rounds.

    pip install --no-deps torchmetrics lightning-utilities
    python benchmarks/confusion_speed.py --size 1024x2048x19

Everybody counts the same uint8 label maps of smooth regions, with 5 % of the pixels ignored. Without torchmetrics its
column is left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.native import confusion

IGNORED = 255


def main() -> None:
    """Prints one line a way of counting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="1024x2048x19", help="HEIGHTxWIDTHxCLASSES")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--random", action="store_true", help="every pixel on its own instead of regions")
    options = parser.parse_args()
    height, width, classes = (int(number) for number in options.size.split("x"))
    labels, predictions = _maps(height, width, classes, smooth=not options.random)
    ways = {
        "deeplab": lambda: ours(labels, predictions, classes),
        "np.bincount": lambda: by_numpy(labels, predictions, classes),
        "torch.bincount": lambda: by_torch(labels, predictions, classes),
        **_torchmetrics(labels, predictions, classes),
    }
    expected = ways["np.bincount"]()
    for name, way in ways.items():
        if not np.array_equal(way(), expected):
            raise SystemExit(f"{name} counts differently")
    print(
        f"{options.size}, {'random' if options.random else 'smooth'} maps, {torch.get_num_threads()} threads, "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, numpy {np.__version__}; "
        f"all counts equal; medians of {options.rounds} interleaved rounds"
    )
    rounds = [{name: _seconds(way) for name, way in ways.items()} for _ in range(options.rounds)]
    for name in ways:
        took = 1000 * statistics.median(each[name] for each in rounds)
        ratio = statistics.median(each[name] / each["deeplab"] for each in rounds)
        print(f"{name:16} {took:8.2f} ms   deeplab is {ratio:6.2f}x as fast")


def ours(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    matrix = ConfusionMatrix(classes, ignore_label=IGNORED)
    matrix.update(labels, predictions)
    return matrix.counts


def by_numpy(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """All pairs of bytes are counted, then the classes cut out: quicker than leaving pixels out first."""
    joint = (labels.astype(np.uint16) << 8) | predictions
    return np.bincount(joint.ravel(), minlength=1 << 16).reshape(256, 256)[:classes, :classes]


def by_torch(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    joint = torch.from_numpy(labels).int() * 256 + torch.from_numpy(predictions)
    return torch.bincount(joint.flatten(), minlength=1 << 16).reshape(256, 256)[:classes, :classes].numpy()


def _torchmetrics(
    labels: np.ndarray, predictions: np.ndarray, classes: int
) -> dict[str, Callable[[], np.ndarray]]:
    try:
        from torchmetrics.functional.classification import multiclass_confusion_matrix
    except ImportError:
        return {}

    def count() -> np.ndarray:
        return multiclass_confusion_matrix(
            torch.from_numpy(predictions), torch.from_numpy(labels), classes, ignore_index=IGNORED
        ).numpy()

    return {"torchmetrics": count}


def _maps(height: int, width: int, classes: int, *, smooth: bool) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions: of regions that mostly agree, or of every pixel on its own."""
    generator = torch.Generator().manual_seed(0)
    step = 32 if smooth else 1
    coarse = torch.randint(0, classes, (1, 1, height // step, width // step), generator=generator).float()
    labels = torch.nn.functional.interpolate(coarse, size=(height, width), mode="nearest")[0, 0]
    predictions = labels.roll((3, 5), (0, 1))
    if not smooth:
        predictions = labels[torch.randperm(height, generator=generator)]
    ignored = torch.zeros(height, dtype=torch.bool)
    ignored[:: 20 if smooth else 19] = True
    labels[ignored] = IGNORED
    return labels.byte().numpy(), predictions.byte().numpy()


def _seconds(run: Callable[[], np.ndarray]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    if not confusion.KERNEL.ready():
        raise SystemExit(f"the kernel cannot be compiled here (CXX={os.environ.get('CXX', '')})")
    main()
