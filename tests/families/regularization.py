"""Golden family n_regularization: which variables decay, which learn, and how much faster (facts 2.1, 6.2, 6.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from deeplab.importers.tensorflow.names import tensorflow_variables
from deeplab.model.network import DeepLab
from deeplab.presets.reference import config_from_options
from deeplab.train.optimiser import parameter_groups
from families.row import Judge, Row, only, said_as_json

TOLERANCE = 1e-6
KNOWN = {"options", "weight_decay", "regularized", "trainable", "gradient_multipliers", "n_update_ops"}


def run_groups(path: Path) -> Row:
    """The groups of every model in the file, under every setting of the last layers."""
    judge = Judge(path.stem)
    for name, case in said_as_json(np.load(path), "cases").items():
        only(case, KNOWN)
        # groups depend on the modules alone: no memory for weights
        with torch.device("meta"):
            model = DeepLab(config_from_options(case["options"]))
        _judge_decay(judge, name, model, case)
        # the reference has an operation for each moving average that training updates
        averages = sum("running" in key for key in model.state_dict())
        judge.equal(f"{name} moving averages", averages, case.get("n_update_ops", averages))
        for setting, golden in case["gradient_multipliers"].items():
            # named by last_layers_contain_logits_only and the last layers' multiplier
            logits_only, multiplier = setting.split("_")
            factors = _by_variable(
                model,
                "multiplier",
                weight_decay=case["weight_decay"],
                head_multiplier=float(multiplier),
                last_layers_contain_logits_only=logits_only == "True",
            )
            # the record names moving averages too, which have no gradient
            _judge_values(
                judge, f"{name} {setting}", factors, {key: golden.get(key, 1.0) for key in case["trainable"]}
            )
    return judge.row()


def _judge_decay(judge: Judge, name: str, model: DeepLab, case: dict[str, Any]) -> None:
    decays = _by_variable(model, "weight_decay", weight_decay=case["weight_decay"], head_multiplier=1.0)
    scales = dict(case["regularized"])
    _judge_values(judge, f"{name} decay", decays, {key: scales.get(key, 0.0) for key in case["trainable"]})


def _judge_values(judge: Judge, what: str, ours: dict[str, float], golden: dict[str, float]) -> None:
    if ours.keys() != golden.keys():
        judge.failed.append(f"{what}: other variables learn: {sorted(ours.keys() ^ golden.keys())[:4]}")
        return
    judge.close(
        what, [ours[key] for key in golden], list(golden.values()), relative=TOLERANCE, absolute=1e-12
    )


def _by_variable(model: DeepLab, key: str, **options: Any) -> dict[str, float]:
    """One value of the groups by the reference's name of each parameter."""
    variables = tensorflow_variables(model)
    names = {id(parameter): variables[path].name for path, parameter in model.named_parameters()}
    groups = parameter_groups(model, **options)
    return {names[id(parameter)]: group[key] for group in groups for parameter in group["params"]}
