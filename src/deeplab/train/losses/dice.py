"""Dice loss: one minus the overlap of predicted and true regions, every class equal whatever its size.

Milletari et al., "V-Net" (arXiv 1606.04797, section 3), for several classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from deeplab.train.losses.valid_pixels import valid_probabilities


def dice_loss(logits: torch.Tensor, labels: torch.Tensor, *, ignore_label: int = 255) -> torch.Tensor:
    """Mean over the classes that the batch shows of 1 - 2 sum(p g) / (sum(p^2) + sum(g^2)).

    p are a class's probabilities and g is 1 where it is right, over all valid pixels of the batch together.

    Args:
        logits: float32 [N, C, H, W].
        labels: integer [N, H, W], 0..C-1 or `ignore_label`.
        ignore_label: pixels with this label count nowhere.

    Returns:
        float32 scalar in 0..1; 0 with zero gradients if every pixel is ignored.
    """
    probabilities, right = valid_probabilities(logits, labels, ignore_label=ignore_label)
    if not len(right):
        return logits.sum() * 0
    truth = F.one_hot(right, logits.shape[1]).to(probabilities.dtype)
    overlap = 2 * (probabilities * truth).sum(0)
    shown = truth.sum(0)
    dice = overlap / (probabilities.square().sum(0) + shown)
    return (1 - dice)[shown > 0].mean()
