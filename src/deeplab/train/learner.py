"""The things that learn: model, moving average, optimiser and loss scaling, made from a recipe.

The order matters: copies are made before blocks are told to recompute, scales are frozen before DDP counts what
learns, and DDP wraps last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.parallel import DistributedDataParallel

from deeplab.backbones.nas_operations import set_drop_path_progress
from deeplab.config import NASConfig
from deeplab.layers.sync_norm import synchronise
from deeplab.model.network import DeepLab
from deeplab.system.processes import World, gather
from deeplab.system.processor import has_bfloat16
from deeplab.train.ema import AveragedWeights
from deeplab.train.loop import Objective
from deeplab.train.norms import freeze_scales, training_mode
from deeplab.train.optimiser import parameter_groups
from deeplab.train.random_state import capture, restore
from deeplab.train.recipe.loss import LossRecipe
from deeplab.train.recipe.optimise import OptimiseRecipe
from deeplab.train.recompute import recompute_activations
from deeplab.train.run_folder.checkpointing import TrainingState, collect_tensors, fill, random_of_rank

IMITATED = (
    "this processor has no instructions for bfloat16 and imitates it, many times slower than float32; "
    "fix: optimise.precision=auto"
)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Learner(NamedTuple):
    """What changes with every update; `average` and `scaler` are None where the recipe has none."""

    model: DeepLab
    optimiser: torch.optim.Optimizer
    average: AveragedWeights | None
    scaler: torch.amp.GradScaler | None

    @property
    def result(self) -> DeepLab:
        """The model to validate and to save: the moving average if there is one."""
        return self.model if self.average is None else self.average.model


def settled(settings: OptimiseRecipe, device: str) -> OptimiseRecipe:
    """`settings` with the precision that "auto" means on `device`."""
    if settings.precision != "auto":
        return settings
    return settings.model_copy(update={"precision": "bfloat16" if has_bfloat16(device) else "float32"})


def make_learner(model: DeepLab, settings: OptimiseRecipe, world: World) -> Learner:
    """Move `model` to the device and give it what it learns with."""
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    model.to(world.device, memory_format=layout)
    average = AveragedWeights(model, decay=settings.average) if settings.average is not None else None
    freeze_scales(model, settings.freeze_norm)
    groups = parameter_groups(
        model,
        weight_decay=settings.weight_decay,
        head_multiplier=settings.head_multiplier,
        bias_multiplier=settings.bias_multiplier,
        last_layers_contain_logits_only=settings.last_layers_contain_logits_only,
    )
    optimiser = torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    scaled = settings.precision == "float16"
    scaler = torch.amp.GradScaler(world.device.partition(":")[0]) if scaled else None
    return Learner(model, optimiser, average, scaler)


def make_objective(
    learner: Learner, settings: OptimiseRecipe, loss: LossRecipe, world: World
) -> Objective | DistributedDataParallel:
    """The module whose result is minimised, in train mode, wrapped for several processes."""
    model = learner.model
    synced = settings.sync_norm and settings.freeze_norm == "none" and world.size > 1
    if synced:
        synchronise(model, device=world.device)
    if settings.recompute:
        recompute_activations(model)
    training_mode(model, settings.freeze_norm)
    objective = Objective(
        model, loss=loss, precision=PRECISIONS[settings.precision], compiled=settings.compile
    )
    if world.size == 1:
        return objective
    device_ids = [torch.device(world.device)] if world.device.startswith("cuda") else None
    return DistributedDataParallel(
        objective,
        device_ids=device_ids,
        forward_sync_buffers=not synced,
        # an output that is not supervised leaves its classifier without a gradient
        find_unused_parameters=bool(model.config.extra_outputs.keys() - loss.outputs.keys()),
    )


def announce_progress(model: DeepLab, step: int, steps: int) -> None:
    """Tell drop path how far the training is; nothing where there is none."""
    backbone = model.config.backbone
    if isinstance(backbone, NASConfig) and backbone.drop_path_keep < 1:
        set_drop_path_progress(model, step / steps)


def state_of(learner: Learner, step: int, values: dict[str, Any], world: World) -> TrainingState:
    """Everything to go on from; every process takes part, as each has its own random generators."""
    random = gather(capture(world.device), world)
    average = learner.average.model if learner.average else None
    tensors = collect_tensors(learner.model, learner.optimiser, average=average, random=random)
    scaler = learner.scaler.state_dict() if learner.scaler else None
    own = {"random": [state.values for state in random], "scaler": scaler}
    return TrainingState(step, tensors, {**values, **own})


def go_on_from(state: TrainingState, learner: Learner, world: World) -> None:
    """Put the learner and this process's random generators where `state_of` found them."""
    average = learner.average.model if learner.average else None
    fill(state, learner.model, learner.optimiser, average=average)
    if learner.scaler:
        learner.scaler.load_state_dict(state.values["scaler"])
    random = random_of_rank(state, world.rank)
    if random is not None:
        restore(random, world.device)
