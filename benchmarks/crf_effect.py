"""What the fully connected CRF does to outlines: the trimap curves of v1 and v2 (v1 section 5.2), before and after.

    python benchmarks/crf_effect.py ASSETS --model runs/generations/v1-mobilenet --crf crf.json --name crf_effect_v1
    python benchmarks/published_voc.py ASSETS --runs runs/published --only mobilenet-v2-0.5-os16
    python benchmarks/crf_effect.py ASSETS --runs runs/published --row mobilenet-v2-0.5-os16 --output docs/images

Measures in bands along the void outlines of VOC's objects, and writes NAME.json and NAME.png: with --model that model's
own classes, else the label maps that published_voc.py left in RUNS/ROW and RUNS/ROW-crf, in the seven classes of its
table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from published_voc import ANIMALS, IGNORE, animals_alone

from deeplab.cli.evaluate import open_labelled
from deeplab.cli.stored_data import RECOGNISED
from deeplab.crf import CRFConfig, crf_parameters
from deeplab.data.dataset import SegmentationDataset
from deeplab.data.opening import open_complete
from deeplab.evaluation.boundaries import Boundaries
from deeplab.evaluation.photo_by_photo import evaluate
from deeplab.evaluation.report.chart import trimap_curves
from deeplab.evaluation.report.summary import by_class
from deeplab.imaging.png import save_png
from deeplab.prediction.segmenter import Segmenter
from deeplab.system.memory import keep_freed_memory


class Measured(NamedTuple):
    """Boundary measures, the classes they are of, and the number of photos."""

    boundaries: Boundaries
    classes: tuple[str, ...]
    photos: int


def of_label_maps(folder: Path, assets: Path) -> Measured:
    """Of the label maps in `folder`."""
    data = SegmentationDataset(open_complete(assets / "voc_animals", "val"))
    table = animals_alone()
    boundaries = Boundaries(len(ANIMALS), ignore_label=IGNORE, edges="void")
    for index in range(len(data)):
        with Image.open(folder / f"{data.source.name(index)}.png") as held:
            boundaries.update(index, table[data.load(index)[1]], table[np.array(held)])
    return Measured(boundaries, ANIMALS, len(data))


def of_model(model: str, assets: Path, crf: CRFConfig | None) -> Measured:
    """Of a model's labels, photos whole at a single scale."""
    predictor = Segmenter(model, crf=crf).predictor
    spec = predictor.labels
    data = open_labelled(assets / "voc_animals", "val", RECOGNISED, spec)
    boundaries = Boundaries(len(spec.classes), ignore_label=spec.ignore_label, edges="void")
    photos = itertools.count()
    evaluate(
        predictor,
        (data.load(index) for index in range(len(data))),
        on_result=lambda result: boundaries.update(next(photos), result.labels, result.found.labels.numpy()),
    )
    return Measured(boundaries, tuple(spec.classes), len(data))


def summary(measured: Measured) -> dict[str, Any]:
    """Shares of 1; the bands' by width in pixels."""
    boundaries, classes, _ = measured
    bands = boundaries.bands.items()
    return {
        "trimap mean IoU": {str(width): value for width, value in boundaries.trimap().items()},
        "trimap pixel accuracy": {str(width): band.pixel_accuracy() for width, band in bands},
        "boundary IoU": boundaries.mean_iou(),
        "boundary IoU by class": by_class(classes, boundaries.iou_per_class()),
        "boundary F": boundaries.mean_f(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assets", type=Path)
    parser.add_argument("--model", help="as deeplab eval --model")
    parser.add_argument("--crf", default="v2-resnet101", help="with --model: as deeplab eval --crf")
    parser.add_argument("--runs", type=Path, default=Path("runs/published"))
    parser.add_argument("--row", default="mobilenet-v2-0.5-os16")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument("--name", default="crf_effect")
    options = parser.parse_args()
    keep_freed_memory()
    if options.model:
        parameters = crf_parameters(options.crf)
        about: dict[str, Any] = {"model": Path(options.model).name, "crf": parameters.model_dump()}
        found = {
            name: of_model(options.model, options.assets, crf)
            for name, crf in (("before", None), ("after", parameters))
        }
    else:
        about = {"row": options.row}
        found = {
            name: of_label_maps(options.runs / folder, options.assets)
            for name, folder in (("before", options.row), ("after", f"{options.row}-crf"))
        }
    curves = {f"{name} the CRF": held.boundaries.trimap() for name, held in found.items()}
    report = (
        about
        | {"photos": found["before"].photos, "edges": "void"}
        | {name: summary(held) for name, held in found.items()}
    )
    options.output.mkdir(parents=True, exist_ok=True)
    save_png(
        trimap_curves(curves, title="Mean IoU near the outlines"), options.output / f"{options.name}.png"
    )
    beside = options.output / f".{options.name}.json.tmp"
    beside.write_text(f"{json.dumps(report, indent=1)}\n")
    os.replace(beside, options.output / f"{options.name}.json")
    print("| within pixels |", " | ".join(map(str, found["before"].boundaries.bands)), "|")
    for name, held in found.items():
        shown = (f"{100 * value:.1f}" for value in held.boundaries.trimap().values())
        print(f"| {name} |", " | ".join(shown), "|")


if __name__ == "__main__":
    main()
