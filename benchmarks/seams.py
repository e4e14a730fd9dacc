"""What the seams between windows cost: against the labels of the whole picture, and in mean IoU on labelled pictures.

    python benchmarks/seams.py DATA [--model animals] [--across 4] [--pictures 4] [--windows 640 1280] [--exact-side N]

Labelled pictures larger than a window are made of a data set's photos, so many across and down, each picture of others;
a street's photos make a row of streets, and photos of animals a meadow. Each way of labelling is measured on the same
pictures: mean IoU, the share of labels that differ from the whole picture's, and seconds a megapixel; ways that refuse
the model are left out. With `--exact-side`, one picture of that side is labelled whole and by `--seams exact`, which
takes its memory whole: about half a gigabyte a megapixel. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import torch
from harness.machine import machine

from deeplab.cli.evaluate import open_labelled
from deeplab.cli.stored_data import RECOGNISED
from deeplab.errors import UserError
from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.model.checkpoint import load
from deeplab.native.upsample_argmax import axis, interpolated
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.prediction.sliding import slide
from deeplab.prediction.strips import labelled_along
from deeplab.prediction.tiles import Tiles
from deeplab.prediction.windows import Seams, Window, assembled
from deeplab.system.memory import keep_freed_memory

OVERLAPS: tuple[float, ...] = (0.2, 0.5)
SEAMS: tuple[Seams, ...] = ("blend", "shared")


@dataclass
class Measured:
    """Of one way."""

    confusion: ConfusionMatrix
    differing: list[float] = field(default_factory=list)
    seconds: float = 0.0
    megapixels: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="the data set's folder; its val split is measured")
    parser.add_argument("--model", default="animals")
    parser.add_argument("--across", type=int, default=4, help="photos a row and a column of a picture")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--windows", type=int, nargs="*", default=[640, 1280], help="sides")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--exact-side", type=int, default=0)
    options = parser.parse_args()
    keep_freed_memory()
    about = machine()
    print(f"{about['processor']}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    model = load(options.model)
    dataset = open_labelled(options.data, "val", RECOGNISED, model.labels)
    predictor = Predictor.of(model, Labelling(device=options.device))
    pictures = min(options.pictures, max(1, len(dataset) // options.across**2))
    if pictures:
        table = ways(predictor, dataset, across=options.across, pictures=pictures, sides=options.windows)
        print(table, flush=True)
    if options.exact_side:
        print(exact(predictor, dataset, side=options.exact_side), flush=True)


def mosaic(dataset: object, *, first: int, down: int, across: int) -> tuple[np.ndarray, np.ndarray]:
    """Photos in rows, and their labels, cut to the smallest height and width among them."""
    count = len(dataset)  # type: ignore[arg-type]
    pairs = [dataset.load((first + number) % count) for number in range(down * across)]  # type: ignore[attr-defined]
    height, width = (min(labels.shape[axis] for _, labels in pairs) for axis in (0, 1))
    rows = [pairs[row * across : (row + 1) * across] for row in range(down)]
    photo, labels = (
        np.concatenate([np.concatenate([pair[kind][:height, :width] for pair in row], 1) for row in rows])
        for kind in (0, 1)
    )
    return photo, labels


def ways(predictor: Predictor, dataset: object, *, across: int, pictures: int, sides: list[int]) -> str:
    """A table; each way is said on the error stream as it is done."""
    all_ways: dict[str, tuple[Seams, Window | None]] = {"whole": ("blend", None)}
    for side, overlap, seams in product(sides, OVERLAPS, SEAMS):
        window = Window(side, side, overlap=overlap)
        try:
            slide(predictor.network, (4 * side, 4 * side), window=window, seams=seams)
        except UserError as error:
            print(f"{seams}, {side}: refused: {error}", file=sys.stderr)
            continue
        all_ways[f"{seams}, {side}, overlap {overlap:g}"] = seams, window
    classes, ignored = predictor.network.config.num_classes, predictor.labels.ignore_label
    found = {way: Measured(ConfusionMatrix(classes, ignore_label=ignored)) for way in all_ways}
    sizes = []
    for number in range(pictures):
        photo, labels = mosaic(dataset, first=number * across**2, down=across, across=across)
        sizes.append(f"{labels.shape[1]} x {labels.shape[0]}")
        whole: np.ndarray | None = None
        for way, (seams, window) in all_ways.items():
            predictor.how = Labelling(window=window, seams=seams)
            began = time.perf_counter()
            got = predictor.label(photo).labels.numpy()
            found[way].seconds += time.perf_counter() - began
            found[way].megapixels += labels.size / 1e6
            whole = got if whole is None else whole
            found[way].differing.append(float((got != whole).mean()))
            found[way].confusion.update(labels, got)
            iou, differs = 100 * found[way].confusion.mean_iou(), 100 * found[way].differing[-1]
            print(f"{number + 1}: {way}: {iou:.2f}, {differs:.2f} % differ", file=sys.stderr, flush=True)
    lines = [
        f"{pictures} pictures, {', '.join(sizes)}\n",
        "| way | mean IoU | differs from whole | seconds a megapixel |",
        "| --- | --- | --- | --- |",
    ]
    for way, each in found.items():
        iou, differs = 100 * each.confusion.mean_iou(), 100 * float(np.mean(each.differing))
        lines.append(f"| {way} | {iou:.2f} | {differs:.2f} % | {each.seconds / each.megapixels:.2f} |")
    return "\n".join([*lines, ""])


def exact(predictor: Predictor, dataset: object, *, side: int) -> str:
    """A sentence."""
    down = across = 1
    photo, _ = mosaic(dataset, first=0, down=1, across=1)
    while photo.shape[0] < side or photo.shape[1] < side:
        down, across = down + (photo.shape[0] < side), across + (photo.shape[1] < side)
        photo, _ = mosaic(dataset, first=0, down=down, across=across)
    images = predictor.images(np.ascontiguousarray(photo[:side, :side]))
    network = predictor.network
    tiles = Tiles(network, (side, side), None, exact=True)
    began = time.perf_counter()
    with torch.inference_mode():
        logits = network.low_resolution_logits(images)["semantic"]
        rows, columns = (axis(length, side, network.config.resize) for length in logits.shape[-2:])
        whole = labelled_along(logits, rows, columns, confidence=False).labels
    middle = time.perf_counter()
    found = assembled(tiles, images).labels
    ended = time.perf_counter()
    differing = (found != whole).nonzero().tolist()
    said = (
        f"{side} x {side}: reach {tiles.reach.pixels} pixels, {len(tiles.places)} tiles; {len(differing)} of "
    )
    said += f"{whole.numel()} pixels differ from the whole"
    if differing:
        apart = []
        for row, column in differing:
            there = rows.part(row, row + 1), columns.part(column, column + 1)
            values = interpolated(interpolated(logits.float(), there[0], -2), there[1], -1).flatten()
            apart.append(float(values.max() - values[found[row, column]]))
        said += f", whose two classes lie up to {max(apart):.1e} of a logit apart"
    return (
        f"{said}; whole {1e6 * (middle - began) / side**2:.2f} and exact "
        f"{1e6 * (ended - middle) / side**2:.2f} seconds a megapixel"
    )


if __name__ == "__main__":
    main()
