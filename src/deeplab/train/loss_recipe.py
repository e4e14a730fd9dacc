"""The part of a training recipe that says what is minimised."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from deeplab.config import NonNegative, ResizeRule, Strict
from deeplab.train.losses import segmentation_cross_entropy


class LossRecipe(Strict):
    """Cross-entropy of upsampled logits (v3 section 4.1; reference fact 6.1).

    class_weights: one factor a class, in the order of `data.classes`; None is 1 each.
    top_k: share of the pixels, hardest first, that count; falls to it over `mining_steps`.
    upsample: logits to the labels' size (v3); false shrinks the labels instead (v1, v2).
    """

    class_weights: tuple[NonNegative, ...] | None = None
    top_k: Annotated[float, Field(gt=0, le=1)] = 1.0
    mining_steps: Annotated[int, Field(ge=0)] = 0
    upsample: bool = True


def recipe_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    recipe: LossRecipe,
    *,
    ignore_label: int = 255,
    resize_rule: ResizeRule = "align_corners",
    step: int = 0,
) -> torch.Tensor:
    """The recipe's loss for one set of logits; arguments as `segmentation_cross_entropy`."""
    return segmentation_cross_entropy(
        logits,
        labels,
        ignore_label=ignore_label,
        class_weights=recipe.class_weights,
        top_k=recipe.top_k,
        mining_steps=recipe.mining_steps,
        step=step,
        upsample=recipe.upsample,
        resize_rule=resize_rule,
    )
