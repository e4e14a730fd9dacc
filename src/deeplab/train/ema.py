"""An exponential moving average of the weights: often a better model than the last step's.

After each update average = decay * average + (1 - decay) * weights, batch norm's running statistics included.
"""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

M = TypeVar("M", bound=nn.Module)


class AveragedWeights(Generic[M]):
    """A copy of a model that follows it slowly.

    Attributes:
        model: the copy, in eval mode and without gradients.
    """

    def __init__(self, model: M, *, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._average = get_ema_multi_avg_fn(decay)
        self._own = list(self.model.state_dict().values())
        self._followed = [value.detach() for value in model.state_dict().values()]

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the model as it is now; whole numbers (counters) are copied."""
        pairs = list(zip(self._own, self._followed, strict=True))
        floats = [(own, new) for own, new in pairs if own.is_floating_point()]
        self._average([own for own, _ in floats], [new for _, new in floats], 1)
        for own, new in pairs:
            if not own.is_floating_point():
                own.copy_(new)
