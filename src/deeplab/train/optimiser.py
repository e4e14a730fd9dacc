"""Parameter groups: who decays, who learns faster (reference facts 2.1, 6.2 and 6.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deeplab.layers.conv import AtrousConv2d
from deeplab.model import DeepLab


def parameter_groups(
    model: DeepLab, *, weight_decay: float, head_multiplier: float, bias_multiplier: float = 2.0
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, each with `multiplier`, its factor on the scheduled learning rate.

    Weight decay goes to convolution kernels that are not depthwise; never to norms or biases. All but the
    backbone learns `head_multiplier` times faster, and convolution biases `bias_multiplier` times (v2
    section 4.1's recipe; fact 6.3).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, module in model.named_modules():
        part = 1.0 if path.startswith("backbone") else head_multiplier
        is_conv = isinstance(module, AtrousConv2d)
        for name, parameter in module.named_parameters(recurse=False):
            decay = weight_decay if is_conv and name == "weight" and not _depthwise(module) else 0.0
            factor = part * bias_multiplier if is_conv and name == "bias" else part
            groups.setdefault((decay, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "multiplier": factor}
        for (decay, factor), parameters in groups.items()
    ]


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its own multiplier."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["multiplier"]


def _depthwise(conv: AtrousConv2d) -> bool:
    return conv.groups == conv.in_channels > 1
