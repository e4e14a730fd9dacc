"""Measuring a model in training, each process a part of the photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from deeplab.config.labels import LabelSpec
from deeplab.data.dataset import SegmentationDataset
from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.evaluation.photo_by_photo import evaluate
from deeplab.model.network import DeepLab
from deeplab.prediction.predictor import Predictor
from deeplab.system.processes import ALONE, World, sum_over_processes


def validate(
    model: DeepLab, dataset: SegmentationDataset, *, world: World = ALONE, on_photo: Callable[[], None]
) -> ConfusionMatrix:
    """The confusion matrix over the whole data set, the same in all processes.

    Args:
        model: the main process's is measured; the others take over its weights and statistics. It is put into eval
            mode, and back into its own afterwards.
        dataset: without a transform.
        world: this process among all.
        on_photo: called after each photo of this process.
    """
    if world.size > 1:
        for value in model.state_dict().values():
            dist.broadcast(value, 0)
    own = photos_and_labels(dataset, first=world.rank, every=world.size)
    training = model.training
    model.eval()
    try:
        confusion = evaluate(Predictor.as_it_is(model), own, on_photo=on_photo)
    finally:
        model.train(training)
    counts = torch.from_numpy(confusion.counts).to(world.device)
    confusion.counts = sum_over_processes(counts, world).cpu().numpy()
    return confusion


def photos_and_labels(
    dataset: SegmentationDataset, *, first: int = 0, every: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every (photo, labels) at its own size, in the list's order; or each `every`th from `first` on."""
    return (dataset.load(index) for index in range(first, len(dataset), every))


def summary(confusion: ConfusionMatrix, labels: LabelSpec, split: str) -> dict[str, Any]:
    """Mean IoU, IoU by class name, pixel accuracy; four digits, None for classes without ground truth."""
    per_class = {
        name: None if np.isnan(value) else round(float(value), 4)
        for name, value in zip(labels.classes, confusion.iou_per_class(), strict=True)
    }
    return {
        "split": split,
        "mean IoU": round(float(confusion.mean_iou()), 4),
        "IoU": per_class,
        "pixel accuracy": round(float(confusion.pixel_accuracy()), 4),
    }
