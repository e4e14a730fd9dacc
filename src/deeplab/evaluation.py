"""Mean IoU of a model on a data set, at the photos' own resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from deeplab.inference import predict
from deeplab.metrics import ConfusionMatrix
from deeplab.model import DeepLab

Pair = tuple[np.ndarray, np.ndarray]


def evaluate(
    model: DeepLab,
    samples: Iterable[Pair],
    *,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    on_photo: Callable[[], None] = lambda: None,
) -> ConfusionMatrix:
    """Accumulate a confusion matrix, one photo at a time, so no padding touches the result.

    Args:
        model: put into eval mode, and back into its own afterwards.
        samples: (photo uint8 [H, W, 3], labels uint8 [H, W]); sizes may differ from photo to photo.
        scales, flip: see `deeplab.inference.predict`.
        on_photo: called after each photo, for a progress bar.
    """
    confusion = ConfusionMatrix(model.config.num_classes, ignore_label=model.labels.ignore_label)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        for photo, labels in samples:
            image = torch.from_numpy(photo).permute(2, 0, 1)[None].to(device)
            predicted = predict(model, image, scales=scales, flip=flip)["semantic"].labels[0]
            confusion.update(labels, predicted.cpu())
            on_photo()
    finally:
        model.train(training)
    return confusion
