"""The report in a folder: check.json, YAML for a recipe and the pictures, each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deeplab import __version__
from deeplab.data.stored import REPORT
from deeplab.doctor.class_list import colours_of
from deeplab.doctor.contact_sheet import draw_overlays, draw_problems
from deeplab.doctor.histogram import draw_histogram
from deeplab.doctor.rules_bands import PIXELS, pixels_yaml
from deeplab.doctor.run import Checked
from deeplab.imaging.png import save_png
from deeplab.system.writing import write_whole

WEIGHTS = "class_weights.yaml"
HISTOGRAM = "classes.png"
OVERLAYS = "overlays.png"
PROBLEMS = "problems.png"
ELSEWHERE = "give another folder with -o"


def write_report(checked: Checked, output: Path) -> list[Path]:
    """Write everything that applies; files of an earlier check that no longer apply are removed.

    Returns:
        the files written, check.json last.

    Raises:
        UserError: the folder cannot be written.
    """
    written = [*_write_pictures(checked, output)]
    if checked.weights is not None:
        written.append(write_whole(output / WEIGHTS, weights_yaml(checked), otherwise=ELSEWHERE))
    if checked.pixels is not None:
        written.append(write_whole(output / PIXELS, pixels_yaml(checked.pixels), otherwise=ELSEWHERE))
    report = json.dumps(as_json(checked), indent=1, ensure_ascii=False)
    written.append(write_whole(output / REPORT, report, otherwise=ELSEWHERE))
    for name in (HISTOGRAM, OVERLAYS, PROBLEMS, WEIGHTS, PIXELS):
        if output / name not in written:
            (output / name).unlink(missing_ok=True)
    return written


def _write_pictures(checked: Checked, output: Path) -> list[Path]:
    data, counts = checked.data, checked.counts
    palette = colours_of(data.classes)
    pictures = {PROBLEMS: draw_problems(data, checked.findings, palette)}
    if counts:
        title = f"{data.root.resolve().name}: share of the labelled pixels by class"
        pictures[HISTOGRAM] = draw_histogram(counts, data.classes.names, palette, title=title)
        pictures[OVERLAYS] = draw_overlays(data, counts, palette)
    return [save_png(image, output / name) for name, image in pictures.items() if image is not None]


def weights_yaml(checked: Checked) -> str:
    """The suggested weights as they stand in a recipe."""
    names = ", ".join(checked.data.classes.names)
    split = checked.counts[0].split
    assert checked.weights is not None
    return (
        f"# median frequency balancing over {split}: median(f) / f(c), f(c) = pixels of c / labelled pixels of\n"
        f"# the photos that hold c; classes in order: {names}\n"
        f"loss:\n  class_weights: [{', '.join(rounded(checked.weights))}]\n"
    )


def rounded(weights: np.ndarray | Sequence[float]) -> list[str]:
    """Weights to four significant digits."""
    return [f"{weight:.4g}" for weight in weights]


def as_json(checked: Checked) -> dict[str, Any]:
    """The whole report."""
    classes = checked.data.classes
    return {
        "deeplab": __version__,
        "data": str(checked.data.root),
        "layout": checked.layout,
        "passed": checked.passed,
        "pairs": len(checked.data.items),
        "unlisted": checked.unlisted,
        "seconds": round(checked.seconds, 2),
        "classes": list(classes.names),
        "classes_from": classes.origin,
        "ignore_label": classes.ignore_label,
        "findings": [finding.as_json() for finding in checked.findings],
        "splits": [
            {
                "split": split.split,
                "masks": split.photos,
                "pixels": split.pixels.tolist(),
                "masks_with": split.photos_with.tolist(),
                "ignored": split.ignored,
            }
            for split in checked.counts
        ],
        "pixels": None if checked.pixels is None else checked.pixels.model_dump(mode="json"),
        "class_weights": None if checked.weights is None else list(map(float, rounded(checked.weights))),
    }
