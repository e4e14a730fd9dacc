"""Several processes that talk through gloo, and what they do; apart, so that a fork imports no tests."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deeplab import DeepLab, LabelSpec
from deeplab.config import ASPPConfig, DecoderConfig, DeepLabConfig, backbone_config
from deeplab.errors import UserError
from deeplab.layers.norm import BatchNorm2d
from deeplab.layers.sync_norm import synchronise
from deeplab.system.processes import join_processes, sum_over_processes
from deeplab.train import run
from deeplab.train.keeper import Watcher
from deeplab.train.learner import make_learner, make_objective
from deeplab.train.loop import StepReport, accumulate_gradients, train_steps
from deeplab.train.recipe import Recipe
from deeplab.train.recipe.loss import LossRecipe
from deeplab.train.recipe.optimise import OptimiseRecipe
from support.training_runs import PROCESSES

PATIENCE = 120.0


def in_processes(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`work(*arguments)` in `count` processes that torchrun's variables have introduced to each other."""
    results = PROCESSES.Queue()
    # as torchrun does: were it in rank 0, the others might still need it when rank 0 has ended, and wait for ever
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    # by value: tensors would travel as shared memory, whose owner may have ended
    packed = pickle.dumps((work, arguments))
    processes = [
        PROCESSES.Process(target=_take_part, args=(rank, count, store.port, results, packed))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    try:
        while len(found) < count:
            rank, failure, result = pickle.loads(results.get(timeout=PATIENCE))
            assert failure is None, f"rank {rank}: {failure}"
            found[rank] = result
        for process in processes:
            process.join(PATIENCE)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    return [found[rank] for rank in range(count)]


def _take_part(rank: int, count: int, port: int, results: Any, packed: bytes) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    torch.set_num_threads(1)
    work, arguments = pickle.loads(packed)
    result, failure = None, None
    try:
        result = work(*arguments)
    except UserError as error:
        result = f"UserError: {error}"
    # whatever it is, the test must say it instead of waiting
    except Exception:
        failure = traceback.format_exc()
    results.put(pickle.dumps((rank, failure, result)))


def tiny_model(momentum: float = 0.1) -> DeepLab:
    """The same weights in every process; no dropout, and float64, so that processes can be compared."""
    torch.manual_seed(0)
    norm = {"eps": 1e-3, "momentum": momentum}
    config = DeepLabConfig(
        backbone=backbone_config("mobilenet_v2", width=0.25, norm=norm),
        context=ASPPConfig(channels=8, rates=(2,), dropout=0.0),
        decoder=DecoderConfig(channels=8, low_level_channels=4),
        head_norm=norm,
        num_classes=3,
    )
    return DeepLab(config, LabelSpec.named(["background", "red", "blue"])).double()


def normalised(x: torch.Tensor, upstream: torch.Tensor, sizes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """This process's share of a synchronised batch norm, forward and backward."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    norm = synchronise(BatchNorm2d(x.shape[1], eps=1e-3, momentum=0.3), device="cpu")
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, x.shape[1]))
        norm.bias.copy_(torch.linspace(-1, 1, x.shape[1]))
    x = x.split(sizes)[dist.get_rank()].clone().requires_grad_()
    y = norm(x)
    y.backward(upstream.split(sizes)[dist.get_rank()])
    dist.destroy_process_group()
    return {
        "y": y.detach(),
        "x": x.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "mean": norm.running_mean,
        "var": norm.running_var,
    }


def gradients_of_batch(
    images: torch.Tensor, labels: torch.Tensor, accumulate: int, **more: Any
) -> dict[str, Any]:
    """Loss, gradients and running statistics of one update over the batch, dealt out to all processes."""
    with join_processes("cpu") as world:
        settings = OptimiseRecipe(steps=1, accumulate=accumulate, **more)
        learner = make_learner(tiny_model(), settings, world)
        objective = make_objective(learner, settings, LossRecipe(), world)
        own = slice(world.rank, None, world.size)
        parts = [(images[own][part::accumulate], labels[own][part::accumulate]) for part in range(accumulate)]
        loss = accumulate_gradients(objective, parts, step=0, world=world)
        loss = sum_over_processes(loss, world).item()
    state = learner.model.state_dict()
    return {
        "loss": loss,
        "gradients": {name: value.grad for name, value in learner.model.named_parameters()},
        "statistics": {name: value for name, value in state.items() if "running" in name},
    }


def weights_after_updates(images: torch.Tensor, labels: torch.Tensor, count: int) -> dict[str, Any]:
    """Losses of some updates over the same batch, and all weights and statistics after them."""
    losses: list[float] = []
    with join_processes("cpu") as world:
        settings = OptimiseRecipe(steps=count, head_multiplier=2, clip_norm=1.0)
        learner = make_learner(tiny_model(), settings, world)
        own = (images[world.rank :: world.size], labels[world.rank :: world.size])
        train_steps(
            make_objective(learner, settings, LossRecipe(), world),
            [own] * count,
            optimiser=learner.optimiser,
            schedule=lambda step: 0.05,
            clip_norm=settings.clip_norm,
            world=world,
            on_step=lambda report: losses.append(report.loss),
        )
    return {"losses": losses, "weights": learner.model.state_dict()}


def train_here(values: dict[str, Any], folder: Path, resume: bool, stop_after: int | None) -> float:
    """A whole run; the main process's watcher may stop it, and so all others, after some updates."""

    def on_step(report: StepReport) -> None:
        if stop_after is not None and report.step + 1 == stop_after + 1:
            raise UserError("stopped on purpose")

    # every process is told, so that all stop at the same update
    run.SILENT = Watcher(on_step, lambda: None)
    recipe = Recipe.model_validate(values)
    return run.train(recipe, folder, device="cpu", watcher=run.SILENT, resume=resume).mean_iou()
