"""Writes an evaluation's folder, and reads back what another evaluation is compared with."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab.config.labels import LabelSpec
from deeplab.errors import UserError
from deeplab.evaluation.bootstrap import ImageCounts
from deeplab.evaluation.report.chart import reliability_chart, trimap_chart
from deeplab.evaluation.report.confusion_picture import draw_confusion
from deeplab.evaluation.report.page import html_page
from deeplab.evaluation.report.scores import Scores
from deeplab.imaging.legend import Entry, draw_legend
from deeplab.imaging.png import save_png
from deeplab.system.files.arrays import read_arrays
from deeplab.system.reading import foreign
from deeplab.system.writing import write_whole

RESULTS, COUNTS, PAGE = "results.json", "images.npz", "report.html"
_LEGEND_WIDTH = 900


def write_report(
    scores: Scores, report: dict[str, Any], folder: Path, *, classes: Sequence[str], title: str
) -> list[Path]:
    """Write results.json, confusion.png, images.npz (for a later comparison), charts and report.html.

    Args:
        scores: of the whole data set.
        report: see `deeplab.evaluation.report.summary.summarise`.
        folder: made if missing; files of these names are replaced.
        classes: names, by index.
        title: of the page.

    Returns:
        The files written.

    Raises:
        UserError: a file cannot be written.
    """
    pictures = {"confusion.png": ("Confusion matrix", draw_confusion(scores.confusion.counts, classes))}
    if scores.boundaries is not None:
        edges = "void pixels" if scores.boundaries.edges == "void" else "changes of the label"
        pictures["trimap.png"] = f"Trimap, along {edges}", trimap_chart(scores.boundaries.trimap())
    if scores.calibration is not None:
        chart = reliability_chart(
            scores.calibration.reliability(), expected_error=scores.calibration.expected_error()
        )
        pictures["reliability.png"] = "Reliability: bars accuracy, red lines mean confidence", chart
    shown = dict(pictures.values())
    if scores.worst is not None:
        shown["Colours of the classes"] = _legend(scores.worst.spec)
    worst = scores.worst.shown if scores.worst is not None else ()
    page = html_page(report, title=title, pictures=shown, worst=worst)
    results = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    written = [save_png(picture, folder / name) for name, (_, picture) in pictures.items()]
    written.append(write_whole(folder / COUNTS, _packed(scores, classes)))
    written.append(write_whole(folder / PAGE, page))
    written.append(write_whole(folder / RESULTS, f"{results}\n"))
    return written


def read_counts(folder: Path, *, names: Sequence[str], classes: Sequence[str]) -> ImageCounts:
    """The counts by photo of an evaluation written by `write_report`.

    Args:
        folder: or its images.npz.
        names, classes: of the photos and classes that it must have, in their order.

    Raises:
        UserError: there is none, or it is of other photos or classes.
    """
    path = folder / COUNTS if folder.is_dir() else folder
    with foreign(path, "no counts of an earlier evaluation", fix="name a folder made by eval -o"):
        photos, known, counts = read_arrays(path, "names", "classes", "counts")
        if counts.shape != (photos.size, 3, known.size) or counts.dtype.kind not in "iu":
            raise ValueError(f"counts of the shape {counts.shape}")
    for what, theirs, ours in (
        ("photos", photos.tolist(), list(names)),
        ("classes", known.tolist(), list(classes)),
    ):
        if theirs != ours:
            raise UserError(
                f"is of other {what} ({len(theirs)}, here {len(ours)})",
                fix="evaluate both models on the same split and classes",
                file=path,
            )
    result = ImageCounts(len(classes))
    result.rows = dict(enumerate(counts))
    return result


def _legend(spec: LabelSpec) -> Image.Image:
    entries = [Entry(name, None, colour) for name, colour in zip(spec.classes, spec.palette, strict=True)]
    return draw_legend(entries, width=_LEGEND_WIDTH, text_size=16)


def _packed(scores: Scores, classes: Sequence[str]) -> bytes:
    held = io.BytesIO()
    names = [scores.names[image] for image in sorted(scores.names)]
    np.savez_compressed(
        held, names=np.array(names, str), classes=np.array(classes, str), counts=scores.images.table()
    )
    return held.getvalue()
