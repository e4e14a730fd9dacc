"""The training loop, as plain functions with explicit arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from deeplab.errors import UserError
from deeplab.model import DeepLab
from deeplab.train.loss_recipe import LossRecipe, recipe_loss
from deeplab.train.optimiser import set_learning_rate

CROSS_ENTROPY = LossRecipe()
Batch = tuple[torch.Tensor, torch.Tensor]


class StepReport(NamedTuple):
    """What one update did: step counts from 0, loss is the batch's before the update."""

    step: int
    loss: float
    learning_rate: float


def train_steps(
    model: DeepLab,
    batches: Iterable[Batch],
    *,
    optimiser: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    loss: LossRecipe = CROSS_ENTROPY,
    precision: torch.dtype = torch.float32,
    first_step: int = 0,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> None:
    """One update per batch until the batches end.

    Args:
        model: in train mode.
        batches: (images uint8 [N, 3, H, W], labels uint8 [N, H, W]).
        optimiser: groups made by `deeplab.train.optimiser.parameter_groups`.
        schedule: step to learning rate.
        loss: what is minimised.
        precision: of the network's passes; logits and loss are float32.
        first_step: number of the first update, for schedule and reports.
        on_step: told after each update.

    Raises:
        UserError: the loss is not finite; the message says what to change.
    """
    device = next(model.parameters()).device
    for step, (images, labels) in enumerate(batches, start=first_step):
        rate = schedule(step)
        set_learning_rate(optimiser, rate)
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True)
        minimised = batch_loss(model, images, labels, loss=loss, step=step, precision=precision)
        value = minimised.item()
        if not math.isfinite(value):
            raise UserError(
                f"the loss became {value} at step {step} (learning rate {rate:.3g}); fix: a lower learning rate, "
                "warm-up steps, or a larger batch"
            )
        optimiser.zero_grad(set_to_none=True)
        minimised.backward()
        optimiser.step()
        on_step(StepReport(step, value, rate))


def batch_loss(
    model: DeepLab,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    loss: LossRecipe = CROSS_ENTROPY,
    step: int = 0,
    precision: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The loss of a batch: a term for each scale of the image pyramid and one for the merged logits."""
    with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
        scales = [logits["semantic"] for logits in model.pyramid_logits(images)]
    if len(scales) > 1:
        stacked = torch.stack(scales)
        scales.append(stacked.amax(0) if model.config.pyramid_merge == "max" else stacked.mean(0))
    terms = [
        recipe_loss(
            logits.float(),
            labels,
            loss,
            ignore_label=model.labels.ignore_label,
            resize_rule=model.config.resize,
            step=step,
        )
        for logits in scales
    ]
    return torch.stack(terms).sum()
