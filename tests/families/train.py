"""Golden family n_train: whole training steps of the reference, with its batch norm, multipliers and mining.

The vectors' own noise (two kernels of the reference) says what is allowed: 5 times it, and at least 1e-5 of the
array's largest value (their README, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deeplab.importers.tensorflow.names import tensorflow_variables
from deeplab.model.network import DeepLab
from deeplab.native import norm_act
from deeplab.train.loop import Objective, StepReport, train_steps
from deeplab.train.norms import training_mode
from deeplab.train.optimiser import parameter_groups
from deeplab.train.recipe.loss import LossRecipe
from deeplab.train.schedules import learning_rate
from families.row import Judge, Row, said_as_json
from families.weights import build

NOISES, LEAST = 5.0, 1e-5


@contextmanager
def plain_norms() -> Iterator[None]:
    """Batch norms by PyTorch's own operations, to whose rounding the vectors' noise is fitted.

    The kernel's values are as near to float64 as those (tests/native/test_norm_act.py), but one of n_train_d's
    38,400 values in block 4 lies within rounding of a ReLU's corner, and on its other side gradients move by 2e-3.
    """
    wins, norm_act.wins = norm_act.wins, lambda *_: False
    try:
        yield
    finally:
        norm_act.wins = wins


def run_training_steps(path: Path) -> Row:
    """Losses, first gradients, and weights, statistics and momenta after the last step."""
    with plain_norms():
        return _run_training_steps(path)


def _run_training_steps(path: Path) -> Row:
    data, judge = np.load(path), Judge(path.stem)
    options, noise = said_as_json(data, "options"), said_as_json(data, "noise")
    slots = ("global_step", "/Momentum")
    model = build(options, [row for row in said_as_json(data, "variables") if not row[0].endswith(slots)])
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    training_mode(model, "none" if options["fine_tune_batch_norm"] else "statistics")
    groups = parameter_groups(
        model,
        weight_decay=options["weight_decay"],
        head_multiplier=options["last_layer_gradient_multiplier"],
        last_layers_contain_logits_only=options["last_layers_contain_logits_only"],
    )
    optimiser = torch.optim.SGD(groups, lr=0.0, momentum=options["momentum"])
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2)
    labels = torch.from_numpy(data["labels"])
    statistics = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    judge_close(judge, "logits_step0", _logits(model, images), data, noise)
    model.load_state_dict(model.state_dict() | statistics)
    reports: list[StepReport] = []
    gradients: dict[str, np.ndarray] = {}

    def after_step(report: StepReport) -> None:
        reports.append(report)
        if report.step == 0:
            gradients.update(_momenta(model, optimiser))

    train_steps(
        Objective(
            model,
            loss=LossRecipe(
                top_k=options["top_k_percent_pixels"],
                mining_steps=options["hard_example_mining_step"],
                upsample=options["upsample_logits"],
            ),
        ),
        [(images, labels)] * options["steps"],
        optimiser=optimiser,
        schedule=lambda step: learning_rate(
            step,
            policy=options["learning_policy"],
            base=options["base_learning_rate"],
            total_steps=options["training_number_of_steps"],
            power=options["learning_power"],
        ),
        on_step=after_step,
    )
    history = said_as_json(data, "history")
    for report, golden, difference in zip(reports, history, noise["history_loss"], strict=True):
        judge.close(f"learning rate {report.step}", report.learning_rate, golden["lr"], relative=1e-6)
        allowed = max(NOISES * difference, LEAST * golden["loss"])
        judge.close(f"loss {report.step}", report.loss, golden["loss"], absolute=allowed)
    ours = _values(model) | {f"{k}/Momentum": v for k, v in _momenta(model, optimiser).items()}
    for key in data.files:
        kind, _, name = key.partition(":")
        if kind == "grad0":
            judge_close(judge, key, gradients[name], data, noise)
        elif kind == "var":
            judge_close(judge, key, ours[name], data, noise)
    return judge.row()


def judge_close(judge: Judge, key: str, ours: np.ndarray, data: Any, noise: dict) -> None:
    """Compare as much of `ours` as the file holds."""
    golden = data[key]
    if key == "logits_step0":
        ours = ours[:, ::2, ::2] if ours.size > 20000 else ours
    elif ours.size >= 6000:
        ours = ours.ravel()[:: -(-ours.size // 4000)]
    allowed = max(NOISES * noise[key]["diff"], LEAST * noise[key]["absmax"])
    judge.close(key, ours, golden, absolute=allowed)


def _logits(model: DeepLab, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return model.low_resolution_logits(images)["semantic"].permute(0, 2, 3, 1).numpy()


def _values(model: DeepLab) -> dict[str, np.ndarray]:
    """All weights and statistics by the reference's name, in its layout."""
    state = model.state_dict()
    return {
        variable.name: _in_its_layout(state[key], variable.name)
        for key, variable in tensorflow_variables(model).items()
    }


def _momenta(model: DeepLab, optimiser: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    """Momentum buffers by the reference's name; there the multipliers are in the gradients, here in the rate."""
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    variables = tensorflow_variables(model)
    found = {}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            name = variables[names[id(parameter)]].name
            value = group["multiplier"] * optimiser.state[parameter]["momentum_buffer"]
            found[name] = _in_its_layout(value, name)
    return found


def _in_its_layout(value: torch.Tensor, name: str) -> np.ndarray:
    array = value.detach().numpy()
    if array.ndim != 4:
        return array.copy()
    return array.transpose((2, 3, 0, 1) if name.endswith("depthwise_weights") else (2, 3, 1, 0)).copy()
