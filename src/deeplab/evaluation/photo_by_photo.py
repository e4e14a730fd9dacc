"""Mean IoU of a model on a data set, at the photos' own resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.prediction.predictor import Predictor
from deeplab.prediction.strips import Labelled

Pair = tuple[np.ndarray, np.ndarray]


class Result(NamedTuple):
    """One photo, what it should be and what it was taken for.

    Attributes:
        photo: as `Predictor.photo` gives it, [H, W, channels].
        labels: uint8 [H, W].
        found: the prediction, on the CPU.
        confusion: of this photo alone.
    """

    photo: np.ndarray
    labels: np.ndarray
    found: Labelled
    confusion: ConfusionMatrix


def evaluate(
    predictor: Predictor,
    samples: Iterable[Pair],
    *,
    confidence: bool = False,
    on_result: Callable[[Result], None] = lambda result: None,
    on_photo: Callable[[], None] = lambda: None,
) -> ConfusionMatrix:
    """Accumulate a confusion matrix, one photo at a time, so no padding touches the result.

    Args:
        predictor: the model and how photos are labelled.
        samples: (photo [H, W, channels], labels uint8 [H, W]); sizes may differ from photo to photo.
        confidence: whether results have the labels' probabilities, which take as long as the labels or longer.
        on_result: called with each photo's result, for other measures.
        on_photo: called after each photo, for a progress bar.
    """
    ignored = predictor.labels.ignore_label
    confusion = ConfusionMatrix(predictor.network.config.num_classes, ignore_label=ignored)
    for photo, labels in samples:
        found = predictor.label(photo, confidence=confidence)
        own = ConfusionMatrix(confusion.num_classes, ignore_label=ignored)
        own.update(labels, found.labels)
        confusion = confusion + own
        on_result(Result(photo, labels, found, own))
        on_photo()
    return confusion
