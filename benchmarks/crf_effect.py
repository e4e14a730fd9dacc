"""What the fully connected CRF does to outlines: the trimap curves of v1 and v2 (v1 section 5.2), before and after.

    python benchmarks/published_voc.py ASSETS --runs runs/published --only mobilenet-v2-0.5-os16
    python benchmarks/crf_effect.py ASSETS --runs runs/published --row mobilenet-v2-0.5-os16 --output docs/images

Measures the label maps that published_voc.py left in RUNS/ROW and RUNS/ROW-crf, in bands along the void outlines of
VOC's objects, and writes crf_effect.json and crf_effect.png. Classes are the seven of published_voc.py's table.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from published_voc import ANIMALS, IGNORE, animals_alone

from deeplab.boundaries import Boundaries
from deeplab.data.dataset import SegmentationDataset
from deeplab.data.opening import open_complete
from deeplab.imaging.png import save_png
from deeplab.report.chart import trimap_curves
from deeplab.report.summary import by_class


def measured(folder: Path, data: SegmentationDataset) -> Boundaries:
    """The boundary measures of the label maps in `folder`."""
    table = animals_alone()
    boundaries = Boundaries(len(ANIMALS), ignore_label=IGNORE, edges="void")
    for index in range(len(data)):
        with Image.open(folder / f"{data.source.name(index)}.png") as held:
            boundaries.update(index, table[data.load(index)[1]], table[np.array(held)])
    return boundaries


def summary(boundaries: Boundaries) -> dict[str, Any]:
    """Shares of 1; the bands' by width in pixels."""
    bands = boundaries.bands.items()
    return {
        "trimap mean IoU": {str(width): value for width, value in boundaries.trimap().items()},
        "trimap pixel accuracy": {str(width): band.pixel_accuracy() for width, band in bands},
        "boundary IoU": boundaries.mean_iou(),
        "boundary IoU by class": by_class(ANIMALS, boundaries.iou_per_class()),
        "boundary F": boundaries.mean_f(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assets", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/published"))
    parser.add_argument("--row", default="mobilenet-v2-0.5-os16")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    data = SegmentationDataset(open_complete(arguments.assets / "voc_animals", "val"))
    found = {
        name: measured(arguments.runs / folder, data)
        for name, folder in (("before", arguments.row), ("after", f"{arguments.row}-crf"))
    }
    curves = {f"{name} the CRF": boundaries.trimap() for name, boundaries in found.items()}
    report = {"row": arguments.row, "photos": len(data), "edges": "void"}
    report |= {name: summary(boundaries) for name, boundaries in found.items()}
    arguments.output.mkdir(parents=True, exist_ok=True)
    save_png(trimap_curves(curves, title="Mean IoU near the outlines"), arguments.output / "crf_effect.png")
    beside = arguments.output / ".crf_effect.json.tmp"
    beside.write_text(f"{json.dumps(report, indent=1)}\n")
    os.replace(beside, arguments.output / "crf_effect.json")
    print("| within pixels |", " | ".join(map(str, found["before"].bands)), "|")
    for name, boundaries in found.items():
        print(f"| {name} |", " | ".join(f"{100 * value:.1f}" for value in boundaries.trimap().values()), "|")


if __name__ == "__main__":
    main()
