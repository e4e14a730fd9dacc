"""Activations by name, with the reference's constants.

Reference facts 2.5 and 3.2: the hard sigmoid of the squeeze-and-excite gates multiplies by 0.16667 and
not by 1/6, while h-swish multiplies by 1/6; published weights were trained with exactly these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

Activation = Literal["relu", "relu6", "clip6", "hswish", "sigmoid", "qsigmoid"]


class Clip6(nn.Module):
    """Clip to [-6, 6]: the bounded 'linear' outputs of quantisation-friendly Xception (fact 2.8)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(-6.0, 6.0)


class QuantisedSigmoid(nn.Module):
    """relu6(x + 3) * 0.16667."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # OpenVINO takes the sum below for its own hard sigmoid, and 0.16667 for 1/6
        return (
            F.hardsigmoid(x) * (6 * 0.16667) if torch.compiler.is_exporting() else F.relu6(x + 3.0) * 0.16667
        )


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "clip6": Clip6,
    "hswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "qsigmoid": QuantisedSigmoid,
}


def make_activation(name: Activation | None) -> nn.Module:
    """The module for `name`; None is the identity (linear bottlenecks)."""
    return nn.Identity() if name is None else ACTIVATIONS[name]()
