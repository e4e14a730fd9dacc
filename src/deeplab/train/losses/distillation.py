"""Distillation: the student is to say what a teacher says, shares of all classes and not the right one alone.

After Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531, section 2), at each logit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from deeplab.config import ResizeRule
from deeplab.layers.resize import resize_bilinear

# what the student has no class for says nothing of those that it has
LEAST_KNOWN = 0.5


def distillation_loss(
    logits: torch.Tensor,
    teacher: torch.Tensor,
    *,
    temperature: float = 1.0,
    resize_rule: ResizeRule = "align_corners",
) -> torch.Tensor:
    """T^2 KL(teacher || student) at the logits' own size, both softened by T; mean over the places that are taught.

    Args:
        logits: float32 [N, C, h, w].
        teacher: [N, C, h', w'], shares that add up to 1 or less over C; not taught are places of less than a half.
        temperature: T. Shares are softened as their logits would be: p^(1/T), made to add up to 1.
        resize_rule: how a teacher of another size is resized.

    Returns:
        float32 scalar; 0 with zero gradients where no place is taught.
    """
    height, width = logits.shape[-2:]
    shares = resize_bilinear(teacher.float(), (height, width), resize_rule)
    taught = shares.sum(1, keepdim=True) >= LEAST_KNOWN
    softened = shares ** (1 / temperature) * taught
    target = softened / softened.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    divergence = F.kl_div((logits / temperature).log_softmax(1), target, reduction="sum")
    return temperature**2 * divergence / taught.sum().clamp(min=1)
