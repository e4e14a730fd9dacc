"""Batch norms while training: frozen in one of two meanings, or not at all.

`statistics`: the running statistics are used and left alone, scale and shift go on learning (the reference's
`fine_tune_batch_norm: false`). `all`: scale and shift are fixed too (v3 section 4.1, second stage).
"""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

FreezeNorm = Literal["none", "statistics", "all"]


def freeze_scales(model: nn.Module, freeze: FreezeNorm) -> None:
    """Exclude scale and shift of every batch norm from learning if `freeze` is "all"; before DDP."""
    for module in _norms(model) if freeze == "all" else ():
        module.requires_grad_(False)


def training_mode(model: nn.Module, freeze: FreezeNorm) -> None:
    """Put `model` into train mode, but frozen norms into eval mode; again after every validation."""
    model.train()
    for module in _norms(model) if freeze != "none" else ():
        module.eval()


def _norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
