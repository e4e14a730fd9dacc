"""What the losses over regions have in common: probabilities of the pixels that are not ignored."""

from __future__ import annotations

import torch


def valid_probabilities(
    logits: torch.Tensor, labels: torch.Tensor, *, ignore_label: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(probabilities float [P, C], labels int64 [P]) of the P pixels of a batch that count.

    Args:
        logits: float [N, C, H, W].
        labels: integer [N, H, W].
        ignore_label: pixels with this label are left out.
    """
    valid = labels != ignore_label
    return logits.movedim(1, -1)[valid].softmax(-1), labels[valid].long()
