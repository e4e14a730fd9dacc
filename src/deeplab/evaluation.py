"""Mean IoU of a model on a data set, at the photos' own resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch

from deeplab.crf import CRFConfig
from deeplab.crf.labels import predict_with_crf
from deeplab.errors import UserError
from deeplab.metrics import ConfusionMatrix
from deeplab.model import DeepLab
from deeplab.prediction.sliding import Window, predict_in_windows
from deeplab.prediction.strips import Labelled, predict_whole

Pair = tuple[np.ndarray, np.ndarray]


class Result(NamedTuple):
    """One photo, what it should be and what it was taken for.

    Attributes:
        photo: uint8 [H, W, 3].
        labels: uint8 [H, W].
        found: the prediction, on the CPU.
        confusion: of this photo alone.
    """

    photo: np.ndarray
    labels: np.ndarray
    found: Labelled
    confusion: ConfusionMatrix


def evaluate(
    model: DeepLab,
    samples: Iterable[Pair],
    *,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    window: Window | None = None,
    crf: CRFConfig | None = None,
    confidence: bool = False,
    on_result: Callable[[Result], None] = lambda result: None,
    on_photo: Callable[[], None] = lambda: None,
) -> ConfusionMatrix:
    """Accumulate a confusion matrix, one photo at a time, so no padding touches the result.

    Args:
        model: put into eval mode, and back into its own afterwards.
        samples: (photo uint8 [H, W, 3], labels uint8 [H, W]); sizes may differ from photo to photo.
        scales, flip: see `deeplab.prediction.inference.predict`.
        window: label each photo in windows of this size, see `deeplab.prediction.sliding`; None takes it whole.
        crf: refine probabilities by the fully connected CRF with these parameters, see `deeplab.crf`.
        confidence: whether results have the labels' probabilities, which take as long as the labels or longer.
        on_result: called with each photo's result, for other measures.
        on_photo: called after each photo, for a progress bar.

    Raises:
        UserError: a CRF together with windows: it looks at the whole photo, and they are there not to hold it.
    """
    if crf is not None and window is not None:
        raise UserError(
            "a CRF needs the probabilities of the whole photo; fix: leave out the window, or the CRF"
        )
    confusion = ConfusionMatrix(model.config.num_classes, ignore_label=model.labels.ignore_label)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        for photo, labels in samples:
            image = torch.from_numpy(photo).permute(2, 0, 1)[None].to(device)
            if crf is not None:
                found = predict_with_crf(model, photo, parameters=crf, scales=scales, flip=flip)
            elif window is None:
                found = predict_whole(model, image, scales=scales, flip=flip, confidence=confidence)
            else:
                found = predict_in_windows(
                    model, image, window=window, scales=scales, flip=flip, confidence=confidence
                )
            found = found.cpu()
            own = ConfusionMatrix(confusion.num_classes, ignore_label=confusion.ignore_label)
            own.update(labels, found.labels)
            confusion = confusion + own
            on_result(Result(photo, labels, found, own))
            on_photo()
    finally:
        model.train(training)
    return confusion
