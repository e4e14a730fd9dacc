"""Peak memory of evaluating large photos, by the operating system's account, with the model's own left out.

    python benchmarks/evaluation_memory.py 2049x1025x19 3000x2000x150 [--scales 0.75 1.0 --flip] [--plain]

The model is a stand-in that has logits at a sixteenth of the photo's sides ready, so that what is measured is the
evaluation: labels, the confusion matrix, boundaries and calibration. One fresh process a size; prints JSON, a line
each: bytes above those before the first photo, seconds, and what logits at full size would take.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from deeplab.config.labels import LabelSpec
from deeplab.evaluation.boundaries import Boundaries
from deeplab.evaluation.calibration import Calibration
from deeplab.evaluation.photo_by_photo import Result, evaluate
from deeplab.evaluation.report.scores import Scores
from deeplab.layers.resize import resize_bilinear
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor

STRIDE = 16
REGION = 8


class Ready(nn.Module):
    """What evaluation asks of a DeepLab, with logits that cost nothing."""

    eight_bit = False

    def __init__(self, classes: int, height: int, width: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_classes=classes, resize="align_corners")
        size = -(-height // STRIDE), -(-width // STRIDE)
        # regions, as photos have them: outlines everywhere would measure the boundary F-score's search alone
        coarse = tuple(-(-side // REGION) for side in size)
        regions = 3 * torch.randn(1, classes, *coarse, generator=torch.manual_seed(0))
        self.logits = nn.Parameter(F.interpolate(regions, size))

    def low_resolution_logits(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"semantic": self.logits.detach()}

    def scaled_logits(self, images: torch.Tensor, scale: float) -> dict[str, torch.Tensor]:
        size = tuple(max(1, int(side * scale)) for side in self.logits.shape[-2:])
        return {"semantic": resize_bilinear(self.logits.detach(), size, "align_corners")}


def predictor(model: Ready, options: argparse.Namespace) -> Predictor:
    """Of the stand-in."""
    how = Labelling(scales=tuple(options.scales), flip=options.flip)
    labels = LabelSpec.numbered(model.config.num_classes)
    return Predictor(model, labels, device=torch.device("cpu"), how=how, output_stride=STRIDE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="+", help="WIDTHxHEIGHTxCLASSES")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0])
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--plain", action="store_true", help="the confusion matrix alone")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.sizes[0], options)))
        return
    further = sys.argv[1 + len(options.sizes) :] if sys.argv[1] in options.sizes else sys.argv[1:]
    for size in options.sizes:
        subprocess.run([sys.executable, __file__, size, *further, "--here"], check=True)


def measure(size: str, options: argparse.Namespace) -> dict[str, Any]:
    """One photo of that size; see the module."""
    width, height, classes = (int(number) for number in size.split("x"))
    random = np.random.default_rng(0)
    model = Ready(classes, height, width)
    photo = np.zeros((height, width, 3), np.uint8)
    blocks = random.integers(0, classes, (height // 100 + 1, width // 100 + 1), dtype=np.uint8)
    labels = blocks.repeat(100, axis=0).repeat(100, axis=1)[:height, :width]
    scores = Scores(classes)
    if not options.plain:
        scores = Scores(classes, boundaries=Boundaries(classes), calibration=Calibration())

    def on_result(result: Result) -> None:
        scores.update(0, "photo", result)

    # a photo of a few pixels takes everything once: libraries are loaded and kernels built
    small = Ready(classes, 32, 32)
    evaluate(predictor(small, options), [(photo[:32, :32], labels[:32, :32])], confidence=True)
    before, start = _peak(), time.perf_counter()
    evaluate(
        predictor(model, options),
        [(photo, labels)],
        confidence=not options.plain,
        on_result=on_result,
    )
    return {
        "size": size,
        "bytes": _peak() - before,
        "seconds": round(time.perf_counter() - start, 2),
        "logits at full size": 4 * width * height * classes,
    }


def _peak() -> int:
    """Bytes; the system counts in KiB on Linux, in bytes on macOS."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
