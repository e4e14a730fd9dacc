"""The part of a training recipe that says what is minimised, and the sum that it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from deeplab.config import NonNegative, ResizeRule, Strict
from deeplab.data.class_weights import median_frequency_weights
from deeplab.errors import UserError
from deeplab.train.losses.cross_entropy import same_size, segmentation_cross_entropy
from deeplab.train.losses.dice import dice_loss
from deeplab.train.losses.distillation import distillation_loss
from deeplab.train.losses.focal import focal_loss
from deeplab.train.losses.lovasz import lovasz_softmax
from deeplab.train.recipe.distil import DistilRecipe

MAIN_OUTPUT = "semantic"


class LossRecipe(Strict):
    """A weighted sum; by default cross-entropy of upsampled logits (v3 section 4.1; reference fact 6.1).

    cross_entropy, focal, dice, lovasz: weight of each term; 0 leaves it out.
    focal_gamma: exponent of the focal loss.
    class_weights: one factor a class, in the order of `data.classes`, for cross-entropy and focal loss; None
    is 1 each. class_frequencies: instead, how often each class occurs (pixel counts or shares), from which
    the factors follow: median frequency / frequency.
    top_k: share of the pixels, hardest first, that count in the cross-entropy; falls to it over
    `mining_steps`.
    upsample: logits to the labels' size (v3); false shrinks the labels instead (v1, v2).
    upsample_regions: false shrinks them for Dice and Lovasz alone, which then cost a stride squared less.
    auxiliary: weight of the cross-entropy of a head that learns from the middle of the backbone and is not saved
        (`deeplab.train.auxiliary`); 0.4 is usual.
    outputs: further outputs of the model that learn, and the weight of their loss; the main one has 1.
    """

    cross_entropy: NonNegative = 1.0
    focal: NonNegative = 0.0
    focal_gamma: Annotated[float, Field(ge=1)] = 2.0
    dice: NonNegative = 0.0
    lovasz: NonNegative = 0.0
    class_weights: tuple[NonNegative, ...] | None = None
    class_frequencies: tuple[NonNegative, ...] | None = None
    top_k: Annotated[float, Field(gt=0, le=1)] = 1.0
    mining_steps: Annotated[int, Field(ge=0)] = 0
    upsample: bool = True
    upsample_regions: bool = True
    auxiliary: NonNegative = 0.0
    outputs: dict[str, NonNegative] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not (self.cross_entropy or self.focal or self.dice or self.lovasz):
            raise ValueError("every term has weight 0; give cross_entropy, focal, dice or lovasz a weight")
        if self.class_weights and self.class_frequencies:
            raise ValueError("class_weights and class_frequencies both give the weights; leave one out")
        if self.class_frequencies and not any(self.class_frequencies):
            raise ValueError("class_frequencies are all 0; count the pixels of each class")
        if MAIN_OUTPUT in self.outputs:
            raise ValueError(f"the main output, {MAIN_OUTPUT!r}, always learns; list further outputs only")
        return self

    @property
    def weights(self) -> tuple[float, ...] | None:
        """One factor a class, or None for 1 each."""
        if self.class_frequencies:
            return median_frequency_weights(self.class_frequencies)
        return self.class_weights


def recipe_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    recipe: LossRecipe,
    *,
    ignore_label: int = 255,
    resize_rule: ResizeRule = "align_corners",
    step: int = 0,
) -> torch.Tensor:
    """The recipe's loss for one set of logits; arguments as `segmentation_cross_entropy`.

    Returns:
        float32 scalar; 0 with zero gradients if every pixel is ignored.
    """
    weights = recipe.weights
    terms = []
    if recipe.cross_entropy:
        entropy = segmentation_cross_entropy(
            logits,
            labels,
            ignore_label=ignore_label,
            class_weights=weights,
            top_k=recipe.top_k,
            mining_steps=recipe.mining_steps,
            step=step,
            upsample=recipe.upsample,
            resize_rule=resize_rule,
        )
        terms.append(recipe.cross_entropy * entropy)
    # the other losses need logits at the labels' size, cross-entropy does not
    if recipe.focal:
        one_size = same_size(logits, labels, upsample=recipe.upsample, rule=resize_rule)
        focal = focal_loss(
            *one_size, ignore_label=ignore_label, gamma=recipe.focal_gamma, class_weights=weights
        )
        terms.append(recipe.focal * focal)
    if recipe.dice or recipe.lovasz:
        enlarged = recipe.upsample and recipe.upsample_regions
        one_size = same_size(logits, labels, upsample=enlarged, rule=resize_rule)
        for weight, region_loss in ((recipe.dice, dice_loss), (recipe.lovasz, lovasz_softmax)):
            if weight:
                terms.append(weight * region_loss(*one_size, ignore_label=ignore_label))
    return torch.stack(terms).sum()


def supervised_loss(
    scales: Sequence[Mapping[str, torch.Tensor]],
    labels: torch.Tensor | Mapping[str, torch.Tensor],
    recipe: LossRecipe,
    *,
    teacher: torch.Tensor | None = None,
    distil: DistilRecipe | None = None,
    merge: Literal["max", "mean"] = "max",
    ignore_label: int = 255,
    resize_rule: ResizeRule = "align_corners",
    step: int = 0,
) -> torch.Tensor:
    """The loss of every supervised output: a term for each scale and, of several, one for their merger.

    All terms of an output weigh the same (v2 section 4.1.2; reference fact 6.1).

    Args:
        scales: for each scale of the image pyramid, logits [N, C, h, w] by output name, all of one size.
        labels: integer [N, H, W] for all outputs, or by output name.
        recipe: its `outputs` say which besides the main one learn.
        teacher: what the main output's teacher says, see `distillation_loss`; with `distil`.
        distil: how that counts.
        merge: how scales are fused, element-wise.
        ignore_label: pixels with this label count nowhere.
        resize_rule: how logits are resized.
        step: training step.

    Raises:
        UserError: an output that the model or the labels lack; otherwise as `segmentation_cross_entropy`.
    """
    total = []
    for name, weight in {MAIN_OUTPUT: 1.0, **recipe.outputs}.items():
        logits = [_named(scale, name, "the model") for scale in scales]
        if len(logits) > 1:
            stacked = torch.stack(logits)
            logits.append(stacked.amax(0) if merge == "max" else stacked.mean(0))
        target = labels if isinstance(labels, torch.Tensor) else _named(labels, name, "the data set")
        for each in logits:
            loss = recipe_loss(
                each, target, recipe, ignore_label=ignore_label, resize_rule=resize_rule, step=step
            )
            total.append(weight * loss)
            if distil is not None and teacher is not None and name == MAIN_OUTPUT:
                taught = distillation_loss(
                    each, teacher, temperature=distil.temperature, resize_rule=resize_rule
                )
                total.append(distil.weight * taught)
    return torch.stack(total).sum()


def _named(tensors: Mapping[str, torch.Tensor], name: str, owner: str) -> torch.Tensor:
    if name not in tensors:
        raise UserError(
            f"loss.outputs names {name!r}; {owner} has {', '.join(tensors)}", fix="use one of these"
        )
    return tensors[name]
