"""The training loop, as plain functions with explicit arguments.

An update may be computed in parts: micro-batches one after the other (`accumulate`) and processes beside each
other. Each part's loss is a mean over its own valid pixels, so a part counts by its share of the update's
valid pixels, and the sum is what one process gets from the whole batch. That is exact for cross-entropy;
mining, a teacher's and the losses over regions are taken within each part. Batch norm sees a part, unless it is
synchronised over processes (`deeplab.layers.sync_norm`).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from deeplab.errors import UserError
from deeplab.layers.resize import resize_nearest
from deeplab.model.network import DeepLab
from deeplab.system.processes import ALONE, World, sum_over_processes
from deeplab.train.auxiliary import AuxiliaryHead
from deeplab.train.losses.cross_entropy import segmentation_cross_entropy
from deeplab.train.optimiser import set_learning_rate
from deeplab.train.recipe.distil import DistilRecipe
from deeplab.train.recipe.loss import LossRecipe, supervised_loss

CROSS_ENTROPY = LossRecipe()
# images and labels; and where there is a teacher, what it says
Batch = tuple[torch.Tensor, ...]


class StepReport(NamedTuple):
    """What one update did: step counts from 0, loss is the whole batch's before the update.

    photos are those of this process; seconds of the update with its data; waited, the part of them spent
    waiting for data.
    """

    step: int
    loss: float
    learning_rate: float
    photos: int = 0
    seconds: float = 0.0
    waited: float = 0.0


class Objective(nn.Module):
    """Model and loss as one module, [N, 3, H, W] and [N, H, W] to a scalar: what DDP wraps.

    Args:
        model: is trained.
        loss: what is minimised.
        distil: of a run with a teacher.
        auxiliary: learns beside the model, and watches it from now on.
        precision: of the network's passes; logits and loss are float32.
        compiled: run the network through `torch.compile`.
    """

    def __init__(
        self,
        model: DeepLab,
        *,
        loss: LossRecipe = CROSS_ENTROPY,
        distil: DistilRecipe | None = None,
        auxiliary: AuxiliaryHead | None = None,
        precision: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss, self.distil, self.auxiliary = loss, distil, auxiliary
        if auxiliary is not None:
            auxiliary.watch(model)
        self.precision = precision
        self.network = torch.compile(model.pyramid_logits) if compiled else model.pyramid_logits

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, step: int, teacher: torch.Tensor | None = None
    ) -> torch.Tensor:
        loss = batch_loss(
            self.model,
            images,
            labels,
            teacher,
            loss=self.loss,
            distil=self.distil,
            step=step,
            precision=self.precision,
            network=self.network,
        )
        if self.auxiliary is None:
            return loss
        with torch.autocast(images.device.type, self.precision, enabled=self.precision != torch.float32):
            seen = self.auxiliary.logits()
        for logits in seen:
            entropy = segmentation_cross_entropy(
                logits,
                labels,
                ignore_label=self.model.labels.ignore_label,
                class_weights=self.loss.weights,
                upsample=self.loss.upsample,
                resize_rule=self.model.config.resize,
            )
            loss = loss + self.loss.auxiliary * entropy
        return loss

    def counted_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """The labels that the loss is a mean over: those given, or shrunk to the logits."""
        if self.loss.upsample:
            return labels
        height, width = self.model.logits_size(labels.shape[-2:])
        return resize_nearest(labels, (height, width))


def train_steps(
    objective: Objective | DistributedDataParallel,
    batches: Iterable[Batch],
    *,
    optimiser: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    first_step: int = 0,
    accumulate: int = 1,
    clip_norm: float | None = None,
    scaler: torch.amp.GradScaler | None = None,
    world: World = ALONE,
    channels_last: bool = True,
    before_step: Callable[[int], None] = lambda step: None,
    on_step: Callable[[StepReport], None] = lambda report: None,
    describe: Callable[[int, Sequence[Batch]], str] = lambda step, parts: "",
) -> None:
    """One update per `accumulate` batches until the batches end.

    Args:
        objective: in train mode; wrapped by DDP where there are several processes.
        batches: (images uint8 [N, 3, H, W], labels uint8 [N, H, W]), and with a teacher its shares [N, C, h, w]; sizes
            N may differ.
        optimiser: groups made by `deeplab.train.optimiser.parameter_groups`.
        schedule: step to learning rate.
        first_step: number of the first update, for schedule and reports.
        accumulate: batches an update.
        clip_norm: gradients are shortened to this length; the groups' multipliers come after it.
        scaler: of the loss, for float16.
        world: this process among all.
        channels_last: memory layout of the images.
        before_step: told the step before its first pass.
        on_step: told after each update.
        describe: told a step and its batches that gave no finite loss; what is said of them.

    Raises:
        UserError: there is no batch at all, or the loss is not finite; the message says what to change.
    """
    inner = objective.module if isinstance(objective, DistributedDataParallel) else objective
    began, step = time.perf_counter(), first_step - 1
    for step, parts in enumerate(_grouped(batches, accumulate), start=first_step):
        waited = time.perf_counter() - began
        rate = schedule(step)
        set_learning_rate(optimiser, rate)
        before_step(step)
        parts = [_to_device(part, inner.model, channels_last=channels_last) for part in parts]
        optimiser.zero_grad(set_to_none=True)
        loss = accumulate_gradients(objective, parts, step=step, world=world, scaler=scaler)
        own, value = loss.item(), sum_over_processes(loss, world).item()
        if not math.isfinite(value):
            batch = "" if math.isfinite(own) else f"; the batch: {describe(step, parts)}"
            raise UserError(
                f"the loss became {value} at step {step} (learning rate {rate:.3g})",
                fix=f"a lower learning rate, warm-up steps, clip_norm, or a larger batch{batch}",
            )
        update(optimiser, scaler=scaler, clip_norm=clip_norm)
        now = time.perf_counter()
        photos = sum(len(images) for images, *_ in parts)
        on_step(StepReport(step, value, rate, photos=photos, seconds=now - began, waited=waited))
        began = time.perf_counter()
    if step < first_step:
        raise UserError("there was no batch to train on", fix="more photos, more steps, or a smaller batch")


def accumulate_gradients(
    objective: Objective | DistributedDataParallel,
    parts: Sequence[Batch],
    *,
    step: int,
    world: World = ALONE,
    scaler: torch.amp.GradScaler | None = None,
) -> torch.Tensor:
    """Add the gradient of the mean over all valid pixels of all parts of all processes.

    Returns:
        this process's part of that mean, a scalar without graph; summed over processes it is the loss.
    """
    inner = objective.module if isinstance(objective, DistributedDataParallel) else objective
    ignored = inner.model.labels.ignore_label
    shares = pixel_shares(
        [inner.counted_labels(labels) for _, labels, *_ in parts], ignore_label=ignored, world=world
    )
    total = torch.zeros((), device=parts[0][0].device)
    for index, ((images, labels, *teacher), share) in enumerate(zip(parts, shares, strict=True)):
        waits = index + 1 < len(parts)
        with (
            objective.no_sync() if waits and isinstance(objective, DistributedDataParallel) else nullcontext()
        ):
            loss = objective(images, labels, step, *teacher) * share
            # DDP takes the mean of the processes' gradients, and their sum is wanted
            minimised = loss * world.size
            (scaler.scale(minimised) if scaler else minimised).backward()
        total += loss.detach()
    return total


def pixel_shares(
    labels: Sequence[torch.Tensor], *, ignore_label: int, world: World = ALONE
) -> Sequence[torch.Tensor | float]:
    """Each part's share of the valid pixels of all parts of all processes; 0 each if there are none."""
    if len(labels) == 1 and world.size == 1:
        return [1.0]
    counts = torch.stack([(part != ignore_label).sum() for part in labels]).float()
    return (counts / sum_over_processes(counts.sum(), world).clamp(min=1)).unbind()


def update(
    optimiser: torch.optim.Optimizer,
    *,
    scaler: torch.amp.GradScaler | None = None,
    clip_norm: float | None = None,
) -> None:
    """Clip the gradients that are there and step; a float16 step with overflown gradients is left out."""
    if scaler and clip_norm is not None:
        scaler.unscale_(optimiser)
    if clip_norm is not None:
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    if scaler:
        scaler.step(optimiser)
        scaler.update()
    else:
        optimiser.step()


def batch_loss(
    model: DeepLab,
    images: torch.Tensor,
    labels: torch.Tensor,
    teacher: torch.Tensor | None = None,
    *,
    loss: LossRecipe = CROSS_ENTROPY,
    distil: DistilRecipe | None = None,
    step: int = 0,
    precision: torch.dtype = torch.float32,
    network: Callable[[torch.Tensor], list[dict[str, torch.Tensor]]] | None = None,
) -> torch.Tensor:
    """The loss of a batch, see `supervised_loss`: every scale of the image pyramid and their merger counts.

    Args:
        network: what stands for `model.pyramid_logits`, such as its compiled form.
    """
    with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
        scales = (network or model.pyramid_logits)(images)
    return supervised_loss(
        [{name: logits.float() for name, logits in scale.items()} for scale in scales],
        labels,
        loss,
        teacher=teacher,
        distil=distil,
        merge=model.config.pyramid_merge,
        ignore_label=model.labels.ignore_label,
        resize_rule=model.config.resize,
        step=step,
    )


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _to_device(batch: Batch, model: DeepLab, *, channels_last: bool) -> Batch:
    images, *others = batch
    device = model.pixel_mean.device
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = images.to(device, non_blocking=True, memory_format=layout)
    return images, *(other.to(device, non_blocking=True) for other in others)
