"""The published VOC weights on the photos of VOC 2012 val that show animals: one table, every row with its interval.

    python benchmarks/published_voc.py ASSETS --runs runs/published [--only mobilenet-v2-0.5-os16 ...] [--minutes 5]
    python benchmarks/published_voc.py ASSETS --runs runs/published --table

ASSETS holds voc_animals/ (VOC layout) and weights/*.tflite. Photos are labelled at their own size; every label map
is kept as RUNS/ROW/NAME.png (after the CRF in RUNS/ROW-crf), and a photo that is there is not labelled again, so a
run may be stopped anywhere. Scores are made from the label maps when a row is complete, and kept as RUNS/ROW.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from deeplab.crf import V2_RESNET101, dense_crf
from deeplab.data.dataset import SegmentationDataset
from deeplab.data.opening import open_complete
from deeplab.data.selection import select_classes
from deeplab.evaluation.bootstrap import ImageCounts, Interval, difference_interval, mean_iou_interval
from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.imaging.label_maps import save_label_map
from deeplab.imaging.palettes import VOC_CLASSES, pascal
from deeplab.importers import import_weights
from deeplab.model.network import DeepLab
from deeplab.prediction.fold import for_inference
from deeplab.prediction.inference import predict
from deeplab.system.memory import keep_freed_memory

IGNORE = 255
RESAMPLES = 1000
SEVERAL = (0.75, 1.0, 1.25)
# labelled on 24 photos or more; of the other nine labelled classes, seven are on one, two or three photos
ANIMALS = ("background", "cat", "cow", "dog", "horse", "person", "sheep")


class Row(NamedTuple):
    """One way to run one file: 8-bit or float arithmetic; `scales` above one are averaged with their mirror images."""

    file: str
    width: float
    output_stride: int
    scales: tuple[float, ...] = (1.0,)
    eight_bit: bool = False


HALF, WHOLE = "deeplabv3_257_mv_gpu.tflite", "deeplabv3_mnv2_pascal_quant.tflite"
ROWS = {
    "mobilenet-v2-0.5-os16": Row(HALF, 0.5, 16),
    "mobilenet-v2-0.5-os8": Row(HALF, 0.5, 8),
    "mobilenet-v2-0.5-os16-ms": Row(HALF, 0.5, 16, SEVERAL),
    "mobilenet-v2-0.5-os8-ms": Row(HALF, 0.5, 8, SEVERAL),
    "mobilenet-v2-1.0-os16-8bit": Row(WHOLE, 1.0, 16, eight_bit=True),
    "mobilenet-v2-1.0-os16": Row(WHOLE, 1.0, 16),
    "mobilenet-v2-1.0-os8": Row(WHOLE, 1.0, 8),
    "mobilenet-v2-1.0-os16-ms": Row(WHOLE, 1.0, 16, SEVERAL),
    "mobilenet-v2-1.0-os8-ms": Row(WHOLE, 1.0, 8, SEVERAL),
}


def label(row: Row, name: str, data: SegmentationDataset, *, assets: Path, runs: Path, until: float) -> bool:
    """Write the label maps that a row still lacks, until that time; True if none is lacking."""
    folders = runs / name, runs / f"{name}-crf"
    lacking = [
        index
        for index in range(len(data))
        if not all((folder / f"{data.source.name(index)}.png").is_file() for folder in folders)
    ]
    if not lacking:
        return True
    model = import_weights(assets / "weights" / row.file).model.eval()
    model.eight_bit, model.output_stride = row.eight_bit, row.output_stride
    model = for_inference(model, device=torch.device("cpu"))
    for index in lacking:
        if time.monotonic() > until:
            return False
        for folder, labels in zip(folders, _labels(model, data.load(index)[0], row), strict=True):
            save_label_map(
                labels, folder / f"{data.source.name(index)}.png", palette=pascal(len(VOC_CLASSES))
            )
    return True


def _labels(model: DeepLab, photo: np.ndarray, row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Before and after the CRF."""
    image = torch.from_numpy(photo).permute(2, 0, 1)[None]
    found = predict(model, image, scales=row.scales, flip=len(row.scales) > 1)["semantic"]
    after = dense_crf(found.probabilities[0], photo, parameters=V2_RESNET101).argmax(0)
    return found.labels[0].numpy().astype(np.uint8), after.numpy().astype(np.uint8)


class Counts(NamedTuple):
    """Of one folder of label maps: in the 21 classes, and with all but ANIMALS taken for background."""

    all: ImageCounts
    animals: ImageCounts


def count(folder: Path, data: SegmentationDataset) -> Counts:
    """Compare the label maps in `folder` with the masks."""
    merged = animals_alone()
    counts = Counts(ImageCounts(len(VOC_CLASSES)), ImageCounts(len(ANIMALS)))
    for index in range(len(data)):
        truth = data.load(index)[1]
        with Image.open(folder / f"{data.source.name(index)}.png") as held:
            labels = np.array(held)
        for own, table in ((counts.all, np.arange(256, dtype=np.uint8)), (counts.animals, merged)):
            confusion = ConfusionMatrix(own.num_classes, ignore_label=IGNORE)
            confusion.update(table[truth], table[labels])
            own.update(index, confusion)
    return counts


def animals_alone() -> np.ndarray:
    """uint8 [256]: VOC's labels as places in ANIMALS, all other classes as background."""
    return select_classes(VOC_CLASSES, ANIMALS, other="background", ignore_label=IGNORE)


def score(name: str, row: Row, data: SegmentationDataset, runs: Path) -> dict[str, Any]:
    """Everything that the table says of a complete row, with and without CRF."""
    before, after = count(runs / name, data), count(runs / f"{name}-crf", data)
    kind: dict[str, Any] = {"convention": "labelled", "resamples": RESAMPLES}
    held: dict[str, Any] = {
        **row._asdict(),
        "photos": len(data),
        "crf parameters": V2_RESNET101.model_dump(),
    }
    for what, counts in (("plain", before), ("crf", after)):
        held[what] = {
            "labelled classes": mean_iou_interval(counts.all, **kind)._asdict(),
            "animals": mean_iou_interval(counts.animals, **kind)._asdict(),
            "animals by class": dict(zip(ANIMALS, _by_class(counts.animals), strict=True)),
        }
    held["gain"] = difference_interval(after.animals, before.animals, **kind)._asdict()
    return held


def _by_class(counts: ImageCounts) -> list[float]:
    hits, labelled, predicted = counts.table().sum(axis=0)
    return (hits / (labelled + predicted - hits)).tolist()


def table(runs: Path) -> str:
    """Markdown of the complete rows, in the order of ROWS."""
    lines = [
        "| MobileNetV2 | arithmetic | output stride | scales | CRF | 7 classes | labelled classes | gain |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in ROWS.items():
        if not (runs / f"{name}.json").is_file():
            continue
        held = json.loads((runs / f"{name}.json").read_text())
        scales = f"{', '.join(f'{scale:g}' for scale in row.scales)}{', flip' if len(row.scales) > 1 else ''}"
        for what, shown in (("plain", "no"), ("crf", "yes")):
            gain = _interval(held["gain"], "+.1f") if what == "crf" else ""
            cells = [_interval(held[what][which], ".1f") for which in ("animals", "labelled classes")]
            lines.append(
                f"| {row.width:g} | {'8-bit' if row.eight_bit else 'float'} | {row.output_stride} | {scales} "
                f"| {shown} | {cells[0]} | {cells[1]} | {gain} |"
            )
    return "\n".join(lines)


def _interval(held: dict[str, float], form: str) -> str:
    low, middle, high = (
        format(100 * Interval(**held)._asdict()[key], form) for key in ("low", "estimate", "high")
    )
    return f"{middle} ({low} to {high})"


def _write(path: Path, held: dict[str, Any]) -> None:
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(f"{json.dumps(held, indent=1)}\n")
    os.replace(beside, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assets", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/published"))
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after so many; run again to go on"
    )
    parser.add_argument("--table", action="store_true", help="print the table of complete rows and stop")
    arguments = parser.parse_args()
    if not arguments.table:
        keep_freed_memory()
        until = time.monotonic() + 60 * arguments.minutes
        data = SegmentationDataset(open_complete(arguments.assets / "voc_animals", "val"))
        for name in arguments.only:
            if label(ROWS[name], name, data, assets=arguments.assets, runs=arguments.runs, until=until):
                _write(arguments.runs / f"{name}.json", score(name, ROWS[name], data, arguments.runs))
    threads, python = torch.get_num_threads(), platform.python_version()
    print(f"{platform.machine()}, {threads} threads, Python {python}, torch {torch.__version__}\n")
    print(table(arguments.runs))


if __name__ == "__main__":
    main()
