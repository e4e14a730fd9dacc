"""Golden families i and j: losses with their gradients, and learning rates (facts 6.1 and 6.3).

Losses within 1e-5 and learning rates within 1e-6 of their values, gradients within 1e-6 absolute.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deeplab.train.losses.cross_entropy import matting_cross_entropy, segmentation_cross_entropy
from deeplab.train.schedules import learning_rate
from families.row import Judge, Row, only, said_as_json

LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-6
RATE_TOLERANCE = 1e-6
LOSS_OPTIONS = {"upsample_logits", "loss_weight", "top_k_percent_pixels", "hard_example_mining_step"}
LOSS_OPTIONS |= {"global_step", "ignore_label"}
LOSS_RESULTS = {"losses", "grad_keys", "two_scales", "error", "gt_is_matting_map"}
# the reference's names for our arguments
RATE_NAMES = {
    "learning_policy": "policy",
    "base_learning_rate": "base",
    "learning_rate_decay_step": "decay_step",
    "learning_rate_decay_factor": "decay_factor",
    "training_number_of_steps": "total_steps",
    "learning_power": "power",
    "slow_start_step": "slow_start_steps",
    "slow_start_learning_rate": "slow_start_rate",
    "slow_start_burnin_type": "slow_start",
    "end_learning_rate": "end",
    "decay_steps": "decay_steps",
    "boundaries": "boundaries",
    "boundary_learning_rates": "rates",
}


def _options(case: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "top_k": case.get("top_k_percent_pixels", 1.0),
        "mining_steps": case.get("hard_example_mining_step", 0),
        "step": case.get("global_step", 0),
        "upsample": case.get("upsample_logits", True),
    }


def _logits(data: Any, count: int) -> list[torch.Tensor]:
    """The file's logits, channels first: one array a scale, in the order of their names."""
    names = sorted(key for key in data.files if key.startswith("logits"))[:count]
    return [torch.tensor(data[name]).permute(0, 3, 1, 2).contiguous().requires_grad_() for name in names]


def _maps(labels: np.ndarray) -> np.ndarray:
    """[N, H, W] of label maps that may have a last axis of length 1."""
    return labels[..., 0] if labels.ndim == 4 else labels


def _judge_case(judge: Judge, number: int, logits: list, losses: list, case: dict, data: Any) -> None:
    what = f"case {number}"
    values = [loss.item() for loss in losses]
    judge.close(f"{what}: losses", values, case["losses"], relative=LOSS_TOLERANCE, absolute=1e-12)
    torch.stack(losses).sum().backward()
    keys = case.get("grad_keys", [f"grad{number}_{scale}" for scale in range(len(logits))])
    for tensor, key in zip(logits, keys, strict=True):
        gradient = tensor.grad.permute(0, 2, 3, 1).numpy()
        judge.close(f"{what}: {key}", gradient, data[key], absolute=GRADIENT_TOLERANCE)


def run_losses(path: Path) -> Row:
    """Cross-entropy with every option, for one and more scales."""
    data = np.load(path)
    if data["labels"].dtype.kind == "f":
        return run_matting(path)
    judge, labels = Judge(path.stem), torch.tensor(_maps(data["labels"]))
    for number, case in enumerate(said_as_json(data, "cases")):
        only(case, LOSS_OPTIONS | LOSS_RESULTS)
        options = _options(case) | {
            "ignore_label": int(case.get("ignore_label", data["ignore_label"])),
            "class_weights": case.get("loss_weight", 1.0),
        }
        logits = _logits(data, len(case["losses"]) if "losses" in case else 1)
        if "error" in case:
            judge.refused(
                f"case {number}",
                lambda one=logits[0], options=options: segmentation_cross_entropy(one, labels, **options),
            )
            continue
        losses = [segmentation_cross_entropy(each, labels, **options) for each in logits]
        _judge_case(judge, number, logits, losses, case, data)
    return judge.row()


def run_matting(path: Path) -> Row:
    """Two classes against a soft foreground share."""
    data, judge = np.load(path), Judge(path.stem)
    alpha = torch.tensor(_maps(data["labels"]))
    for number, case in enumerate(said_as_json(data, "cases")):
        only(case, LOSS_OPTIONS | LOSS_RESULTS)
        options = _options(case) | {"ignore_label": float(case.get("ignore_label", 255))}
        logits = _logits(data, len(case.get("losses", ["one"])))
        if "error" in case:
            refused = options | {"class_weights": case.get("loss_weight", 1.0)}
            judge.refused(
                f"case {number}",
                lambda one=logits[0], options=refused: matting_cross_entropy(one, alpha, **options),
            )
            continue
        losses = [matting_cross_entropy(each, alpha, **options) for each in logits]
        _judge_case(judge, number, logits, losses, case, data)
    return judge.row()


def run_learning_rates(path: Path) -> Row:
    """Every policy, with and without slow start, step by step."""
    data, judge = np.load(path), Judge(path.stem)
    for number, case in enumerate(said_as_json(data, "cases")):
        only(case, {"args", "steps", "learning_rates_float32", "error"})
        only(case["args"], set(RATE_NAMES))
        arguments = {RATE_NAMES[name]: value for name, value in case["args"].items() if value is not None}
        if arguments.get("slow_start") == "none":
            arguments["slow_start"] = "constant"
        if "error" in case:
            judge.refused(f"case {number}", lambda arguments=arguments: learning_rate(0, **arguments))
            continue
        ours = [learning_rate(step, **arguments) for step in case["steps"]]
        judge.close(
            f"case {number} ({arguments['policy']})",
            ours,
            case["learning_rates_float32"],
            relative=RATE_TOLERANCE,
            # where a cosine comes near -1, its own rounding is all that is left of the rate
            absolute=1e-7 * arguments["base"] if arguments["policy"] == "cosine" else 1e-30,
        )
    return judge.row()
