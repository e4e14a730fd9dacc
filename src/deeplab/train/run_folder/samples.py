"""Pictures of what a model in training predicts: photo, prediction and truth beside each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.data.dataset import SegmentationDataset
from deeplab.imaging.bands import viewable
from deeplab.imaging.overlay import draw_overlay
from deeplab.imaging.png import save_png
from deeplab.model.network import DeepLab
from deeplab.prediction.predictor import Predictor

SAMPLES_FOLDER = "samples"
SAMPLES = 4
LONGEST_SIDE = 320


def save_samples(model: DeepLab, dataset: SegmentationDataset, folder: Path, *, step: int) -> Path:
    """Write `samples/step-STEP.png` into `folder`: a row for each of a few photos, spread over the split.

    Args:
        model: put into eval mode; the caller puts it back.
        dataset: without a transform.

    Returns:
        the picture's path.
    """
    model.eval()
    chosen = np.linspace(0, len(dataset) - 1, min(SAMPLES, len(dataset)), dtype=int)
    predictor = Predictor.as_it_is(model)
    rows = [_row(predictor, *dataset.load(int(index))) for index in chosen]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return save_png(sheet, folder / SAMPLES_FOLDER / f"step-{step:06d}.png")


def _row(predictor: Predictor, photo: np.ndarray, truth: np.ndarray) -> Image.Image:
    spec = predictor.labels
    predicted = predictor.labels_of(photo).numpy()
    seen = viewable(photo)
    pictures = [Image.fromarray(seen)]
    for labels in (predicted, truth):
        pictures.append(
            draw_overlay(
                seen,
                labels,
                class_names=spec.classes,
                palette=np.asarray(spec.palette, dtype=np.uint8),
                legend=False,
                ignore_label=spec.ignore_label,
            )
        )
    factor = min(1.0, LONGEST_SIDE / max(photo.shape[:2]))
    size = (max(1, round(photo.shape[1] * factor)), max(1, round(photo.shape[0] * factor)))
    row = Image.new("RGB", (size[0] * len(pictures), size[1]))
    for number, picture in enumerate(pictures):
        row.paste(picture.resize(size), (number * size[0], 0))
    return row
