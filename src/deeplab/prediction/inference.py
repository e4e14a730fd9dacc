"""From images to probabilities and labels: single scale, several scales, mirrored (v3 section 4.1).

Reference facts 3.7 and 3.8. The reference has habits that change results; they are off unless
`reference=True` asks for them: mirroring is ignored at a single scale, logits of scales below 1 are
interpolated twice, and averaged probabilities go through a second softmax.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from deeplab.layers.resize import resize_bilinear, resize_nearest, scale_dimension
from deeplab.model import DeepLab
from deeplab.native.upsample_argmax import label_dtype, upsample_argmax


class Prediction(NamedTuple):
    """labels int64 [N, H, W]; probabilities float [N, C, H, W], summing to 1 over C."""

    labels: torch.Tensor
    probabilities: torch.Tensor


@torch.inference_mode()
def predict(
    model: DeepLab,
    images: torch.Tensor,
    *,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    upsample_logits: bool = True,
    averaged: bool = False,
    reference: bool = False,
) -> dict[str, Prediction]:
    """Labels and probabilities at the images' size, by output name.

    Args:
        model: in eval mode.
        images: [N, in_channels, H, W], uint8 or float, RGB 0..255.
        scales: the images are run at each of these sizes and probabilities averaged.
        flip: also run each scale mirrored left to right.
        upsample_logits: False takes labels at low resolution and enlarges them by nearest neighbour, and
            enlarges probabilities instead of logits (the reference's prediction_with_upsampled_logits).
        averaged: average probabilities even if there is only one pass; with `reference` this is what the
            reference's multi-scale function does for a single scale.
        reference: reproduce the reference's habits named on top of this module.
    """
    single = scales == (1.0,) and not averaged
    if single and (not flip or reference):
        return _single(model, images, upsample_logits=upsample_logits)
    totals: dict[str, torch.Tensor] = {}
    for scale in scales:
        for mirrored in (False, True) if flip else (False,):
            for name, logits in _pass(
                model, images, scale=scale, mirrored=mirrored, reference=reference
            ).items():
                share = logits.softmax(1)
                totals[name] = totals[name] + share if name in totals else share
    count = len(scales) * (2 if flip else 1)
    averaged = {name: total / count for name, total in totals.items()}
    return {
        name: Prediction(value.argmax(1), value.softmax(1) if reference else value)
        for name, value in averaged.items()
    }


@torch.inference_mode()
def predict_labels(model: DeepLab, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Labels alone at the images' size, by output name: uint8 [N, H, W], uint16 above 256 classes.

    No logits are made at the images' size, see `deeplab.native.upsample_argmax`; the labels are those of `predict`,
    but where two classes are equal up to rounding. For several scales see `deeplab.prediction.strips`.

    Args:
        model, images: see `predict`.
    """
    if model.eight_bit:
        predictions = predict(model, images)
        return {
            name: found.labels.to(label_dtype(found.probabilities.shape[1]))
            for name, found in predictions.items()
        }
    size = tuple(images.shape[-2:])
    return {
        name: upsample_argmax(logits, size, model.config.resize)
        for name, logits in model.low_resolution_logits(images).items()
    }


def _single(model: DeepLab, images: torch.Tensor, *, upsample_logits: bool) -> dict[str, Prediction]:
    size, rule = tuple(images.shape[-2:]), model.config.resize
    predictions = {}
    for name, logits in model.low_resolution_logits(images).items():
        if upsample_logits:
            logits = model.resize_logits(logits, size)
            predictions[name] = Prediction(logits.argmax(1), logits.softmax(1))
        else:
            labels = resize_nearest(logits.argmax(1), size)
            predictions[name] = Prediction(labels, resize_bilinear(logits.softmax(1), size, rule))
    return predictions


def _pass(
    model: DeepLab, images: torch.Tensor, *, scale: float, mirrored: bool, reference: bool
) -> dict[str, torch.Tensor]:
    size, rule = tuple(images.shape[-2:]), model.config.resize
    logits = model.scaled_logits(images.flip(-1) if mirrored else images, scale)
    if mirrored:
        logits = {name: value.flip(-1) for name, value in logits.items()}
    if reference:
        grid = tuple(scale_dimension(side, max(1.0, scale) / model.logits_stride) for side in size)
        logits = {name: resize_bilinear(value, grid, rule) for name, value in logits.items()}
    return {name: model.resize_logits(value, size) for name, value in logits.items()}
