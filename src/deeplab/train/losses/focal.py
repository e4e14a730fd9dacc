"""Focal loss: cross-entropy in which pixels that are right already count little.

Lin et al., "Focal Loss for Dense Object Detection" (arXiv 1708.02002, equations 4 and 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    ignore_label: int = 255,
    gamma: float = 2.0,
    class_weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """Mean over valid pixels of -(1 - p)^gamma * log(p), p being the right class's probability.

    Args:
        logits: float32 [N, C, H, W].
        labels: integer [N, H, W], 0..C-1 or `ignore_label`.
        ignore_label: pixels with this label count nowhere.
        gamma: 1 or more, which keeps the gradient finite at p = 1.
        class_weights: C factors, the paper's alpha; the divisor counts pixels, as in the cross-entropy.

    Returns:
        float32 scalar; 0 with zero gradients if every pixel is ignored.
    """
    labels = labels.long()
    surprise = F.cross_entropy(logits, labels, ignore_index=ignore_label, reduction="none")
    pixels = (-torch.expm1(-surprise)).pow(gamma) * surprise
    valid = labels != ignore_label
    if class_weights is not None:
        table = torch.tensor(class_weights, dtype=logits.dtype, device=logits.device)
        pixels = pixels * table[labels.where(valid, 0)]
    return pixels.sum() / valid.sum().clamp(min=1)
