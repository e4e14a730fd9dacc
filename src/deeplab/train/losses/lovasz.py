"""Lovasz-softmax: the convex extension of one minus the intersection over union.

Berman et al., "The Lovasz-Softmax Loss" (arXiv 1705.08790, sections 3.1 and 3.2).
"""

from __future__ import annotations

import torch

from deeplab.train.losses.valid_pixels import valid_probabilities


def lovasz_softmax(logits: torch.Tensor, labels: torch.Tensor, *, ignore_label: int = 255) -> torch.Tensor:
    """Mean over the classes that the batch shows of the Lovasz extension of the Jaccard loss.

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
    terms = [_jaccard_extension(probabilities[:, c], right == c) for c in right.unique().tolist()]
    return torch.stack(terms).mean()


def _jaccard_extension(probability: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Errors, largest first, times what each adds to 1 - IoU when it joins the mistakes before it."""
    errors, order = torch.where(truth, 1 - probability, probability).sort(descending=True)
    mistaken_true = truth[order].to(errors.dtype).cumsum(0)
    mistaken_false = (~truth[order]).to(errors.dtype).cumsum(0)
    total = mistaken_true[-1]
    loss = 1 - (total - mistaken_true) / (total + mistaken_false)
    return errors @ torch.diff(loss, prepend=loss.new_zeros(1))
