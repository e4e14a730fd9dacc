"""From images to probabilities and labels: single scale, several scales, mirrored (v3 section 4.1).

The reference's own habits stand in `deeplab.prediction.reference`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from deeplab.errors import UserError
from deeplab.model.network import Logits
from deeplab.native.upsample_argmax import label_dtype, upsample_argmax
from deeplab.prediction.network import Network


class Prediction(NamedTuple):
    """labels int64 [N, H, W]; probabilities float [N, C, H, W], summing to 1 over C."""

    labels: torch.Tensor
    probabilities: torch.Tensor


@torch.inference_mode()
def predict(
    network: Network, images: torch.Tensor, *, scales: tuple[float, ...] = (1.0,), flip: bool = False
) -> dict[str, Prediction]:
    """Labels and probabilities at the images' size, by output name.

    Args:
        network: in eval mode.
        images: [N, in_channels, H, W], uint8 or float, RGB 0..255.
        scales: the images are run at each of these sizes and probabilities averaged.
        flip: also run each scale mirrored left to right.
    """
    size = image_size(images)
    if scales == (1.0,) and not flip:
        found = {}
        for name, logits in finite(network.low_resolution_logits(images)).items():
            logits = network.resize_logits(logits, size)
            found[name] = Prediction(logits.argmax(1), logits.softmax(1))
        return found
    totals: dict[str, torch.Tensor] = {}
    for passed in passes(network, images, scales=scales, flip=flip):
        for name, logits in passed.items():
            share = network.resize_logits(logits, size).softmax(1)
            totals[name] = totals[name] + share if name in totals else share
    averaged = {name: total / (len(scales) * (1 + flip)) for name, total in totals.items()}
    return {name: Prediction(value.argmax(1), value) for name, value in averaged.items()}


@torch.inference_mode()
def predict_labels(network: Network, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Labels alone at the images' size, by output name: uint8 [N, H, W], uint16 above 256 classes.

    No logits are made at the images' size, see `deeplab.native.upsample_argmax`; the labels are those of `predict`,
    but where two classes are equal up to rounding. For several scales see `deeplab.prediction.strips`.

    Args:
        network, images: see `predict`.
    """
    if network.eight_bit:
        predictions = predict(network, images)
        return {
            name: found.labels.to(label_dtype(found.probabilities.shape[1]))
            for name, found in predictions.items()
        }
    size = image_size(images)
    return {
        name: upsample_argmax(logits, size, network.config.resize)
        for name, logits in finite(network.low_resolution_logits(images)).items()
    }


def passes(
    network: Network, images: torch.Tensor, *, scales: tuple[float, ...], flip: bool
) -> Iterator[Logits]:
    """Logits at each pass's own size, those of mirrored images mirrored back."""
    for scale in scales:
        yield finite(network.scaled_logits(images, scale))
        if flip:
            mirrored = finite(network.scaled_logits(images.flip(-1), scale))
            yield {name: value.flip(-1) for name, value in mirrored.items()}


def finite(logits: Logits) -> Logits:
    """The logits themselves.

    Raises:
        UserError: NaN or infinity is among them, from which labels would be made all the same.
    """
    for value in logits.values():
        if not torch.isfinite(value.sum(dtype=torch.float32)):
            raise UserError(
                "the network gives NaN or infinity for this photo, so that labels would mean nothing",
                fix="weights of an earlier checkpoint, or float32 where --precision is another",
            )
    return logits


def image_size(images: torch.Tensor) -> tuple[int, int]:
    """Height and width."""
    height, width = images.shape[-2:]
    return height, width
