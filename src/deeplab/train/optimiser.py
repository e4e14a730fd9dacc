"""Parameter groups: who decays, who learns faster (reference facts 2.1, 6.2 and 6.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deeplab.model.network import DeepLab

LAST_LAYERS = ("context.", "multi_scale.", "decoder.", "classifiers.")
# searched networks decay their depthwise kernels too, the others do not (fact 2.1)
DEPTHWISE_DECAYS = ("pnasnet", "hnasnet")


def parameter_groups(
    model: DeepLab,
    *,
    weight_decay: float,
    head_multiplier: float,
    bias_multiplier: float = 2.0,
    last_layers_contain_logits_only: bool = False,
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, each with `multiplier`, its factor on the scheduled learning rate.

    Weight decay goes to convolution kernels: to depthwise ones only inside a searched backbone, never to norms
    or biases. With momentum a factor on the learning rate is the reference's factor on gradients (fact 6.3).

    Args:
        weight_decay: of the kernels that decay.
        head_multiplier: of the last layers, which are all but the backbone.
        bias_multiplier: of convolution biases, on top (v2 section 4.1's recipe).
        last_layers_contain_logits_only: the last layers are the classifiers alone; a decoder whose output is
            the logits has none.
    """
    last = ("classifiers.",) if last_layers_contain_logits_only else LAST_LAYERS
    searched = model.config.backbone.name in DEPTHWISE_DECAYS
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, module in model.named_modules():
        part = head_multiplier if path.startswith(last) else 1.0
        kernel = isinstance(module, nn.Conv2d) and (
            not _depthwise(module) or (searched and path.startswith("backbone."))
        )
        for name, parameter in module.named_parameters(recurse=False):
            decay = weight_decay if kernel and name == "weight" else 0.0
            is_bias = isinstance(module, nn.Conv2d) and name == "bias"
            groups.setdefault((decay, part * bias_multiplier if is_bias else part), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "multiplier": factor}
        for (decay, factor), parameters in groups.items()
    ]


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its own multiplier."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["multiplier"]


def _depthwise(conv: nn.Conv2d) -> bool:
    return conv.groups == conv.in_channels > 1
