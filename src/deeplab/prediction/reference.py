"""How the reference labels, with habits that change results (facts 3.7 and 3.8); golden vectors are compared with it.

Mirroring is ignored at a single scale, logits of scales below 1 are interpolated twice, and averaged probabilities
go through a second softmax.
"""

from __future__ import annotations

import torch

from deeplab.layers.resize import resize_bilinear, resize_nearest, scale_dimension
from deeplab.model.network import DeepLab
from deeplab.prediction.inference import Prediction, image_size, passes, predict


@torch.inference_mode()
def predict_as_reference(
    model: DeepLab,
    images: torch.Tensor,
    *,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    upsample_logits: bool = True,
    averaged: bool = False,
) -> dict[str, Prediction]:
    """Labels and probabilities at the images' size, by output name; see `deeplab.prediction.inference.predict`.

    Args:
        model, images, scales, flip: see there.
        upsample_logits: False takes labels at low resolution and enlarges them by nearest neighbour, and
            enlarges probabilities instead of logits (the reference's prediction_with_upsampled_logits).
        averaged: average probabilities even if there is only one pass, as the reference's multi-scale function does.
    """
    size, rule = image_size(images), model.config.resize
    if scales == (1.0,) and not averaged:
        if upsample_logits:
            return predict(model, images)
        return {
            name: Prediction(
                resize_nearest(logits.argmax(1), size), resize_bilinear(logits.softmax(1), size, rule)
            )
            for name, logits in model.low_resolution_logits(images).items()
        }
    totals: dict[str, torch.Tensor] = {}
    each = 1 + flip
    for number, passed in enumerate(passes(model, images, scales=scales, flip=flip)):
        stride = max(1.0, scales[number // each]) / model.logits_stride
        grid = (scale_dimension(size[0], stride), scale_dimension(size[1], stride))
        for name, logits in passed.items():
            share = model.resize_logits(resize_bilinear(logits, grid, rule), size).softmax(1)
            totals[name] = totals[name] + share if name in totals else share
    means = {name: total / (len(scales) * each) for name, total in totals.items()}
    return {name: Prediction(value.argmax(1), value.softmax(1)) for name, value in means.items()}
