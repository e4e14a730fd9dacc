"""What int8 costs in mean IoU on a labelled data set, target by target: docs/export.md's table.

    python benchmarks/int8.py DATA --calibration PHOTOS [--model animals runs/animals-int8] [--to onnx openvino litert]

Several models stand side by side, such as one before and after quantisation-aware training. PHOTOS are of the same kind
and not those that are measured; 32 of them are taken, 24 to take ranges from. LiteRT has photos of one size, ExecuTorch
photos up to one, before and after. A target whose extra is not installed is a row that says so. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from harness.machine import machine
from harness.results import markdown

from deeplab.cli.env import version_of
from deeplab.cli.evaluate import open_labelled
from deeplab.cli.labelling import CALIBRATION_PHOTOS, spread
from deeplab.cli.stored_data import StoredData
from deeplab.data.dataset import SegmentationDataset
from deeplab.errors import UserError
from deeplab.evaluation.photo_by_photo import evaluate
from deeplab.export.gate import fitted
from deeplab.export.run import TARGETS, export_model
from deeplab.imaging.photos import find_photos, read_photo
from deeplab.model.checkpoint import load
from deeplab.model.network import DeepLab
from deeplab.prediction.artefacts import open_predictor
from deeplab.prediction.artefacts.description import PhotoInput
from deeplab.prediction.predictor import Predictor

INT8 = [name for name, target in TARGETS.items() if "int8" in target.precisions]
TITLES = (
    "model", "target", "photos", "mean IoU, float32", "int8", "difference", "equal labels, mean", "worst", "MB",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="the data set's folder")
    parser.add_argument("--split", default="val")
    parser.add_argument("--calibration", nargs="+", required=True)
    parser.add_argument("--model", nargs="+", default=["animals"])
    parser.add_argument("--to", nargs="+", default=INT8, choices=INT8)
    parser.add_argument(
        "--side", type=int, default=513, help="of LiteRT's photos, and of ExecuTorch's largest"
    )
    parser.add_argument("--count", type=int, default=None, help="of photos that are measured; default: all")
    options = parser.parse_args()
    about = machine()
    names = ("torch", "onnxruntime", "openvino", "nncf", "ai-edge-quantizer", "executorch")
    versions = ", ".join(f"{name} {version_of(name)}" for name in names)
    print(f"{about['processor']} ({', '.join(about['features'])}); {versions}\n")
    calibration = [read_photo(path) for path in spread(find_photos(options.calibration), CALIBRATION_PHOTOS)]
    rows = []
    for name in options.model:
        model = load(name)
        model.eight_bit = False
        dataset = open_labelled(options.data, options.split, StoredData(), model.labels)
        # before depends on the photos' sizes alone
        known: dict[str, float] = {}
        for to in options.to:
            rows.append([name, to, *row(model, to, calibration, dataset, known, options)])
    print(markdown(list(TITLES), rows))


def row(
    model: DeepLab,
    to: str,
    calibration: list[np.ndarray],
    dataset: SegmentationDataset,
    known: dict[str, float],
    options: argparse.Namespace,
) -> list[str]:
    """The columns of one target from `photos` on, or why there is none."""
    square = (options.side, options.side)
    sizing = {"named": {"sizes": [square]}, "up to": {"largest": square}}.get(TARGETS[to].sizing, {})
    with tempfile.TemporaryDirectory() as place:
        try:
            made = export_model(
                model,
                to,
                Path(place) / "out",
                name="model",
                precision="int8",
                calibration=calibration,
                allow=True,
                **sizing,
            )
        except UserError as error:
            return [f"no: {error}", *["-"] * (len(TITLES) - 3)]
        taken, parity = made.description.input, made.description.parity
        before = known.get(taken.said())
        if before is None:
            before = known[taken.said()] = mean_iou(Predictor.of(model), dataset, taken, options.count)
        after = mean_iou(open_predictor(made.path), dataset, taken, options.count)
    shown = [f"{100 * before:.2f}", f"{100 * after:.2f}", f"{100 * (after - before):+.2f}"]
    equal = [f"{parity['mean agreement']:.4f}", f"{parity['agreement']:.4f}"]
    return [taken.said(), *shown, *equal, f"{made.megabytes:.1f}"]


def mean_iou(
    predictor: Predictor, dataset: SegmentationDataset, taken: PhotoInput, count: int | None
) -> float:
    """On the first photos, at sizes that the file takes."""
    some = range(len(dataset))[:count]
    return evaluate(predictor, (fitted(*dataset.load(index), taken) for index in some)).mean_iou()


if __name__ == "__main__":
    main()
