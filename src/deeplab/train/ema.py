"""An exponential moving average of the weights: often a better model than the last step's.

After update t (0 is the first) average = d * average + (1 - d) * weights, batch norm's running statistics included,
with d = min(decay, (1 + t) / (10 + t)) as in TensorFlow's ExponentialMovingAverage with `num_updates`: without that
ramp the random weights of the start would stay in the average for some multiples of 1 / (1 - decay) updates.
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
        self.decay = decay
        self._own = list(self.model.state_dict().values())
        self._followed = [value.detach() for value in model.state_dict().values()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model as it is now, after update `step`; whole numbers (counters) are copied."""
        average = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        pairs = list(zip(self._own, self._followed, strict=True))
        floats = [(own, new) for own, new in pairs if own.is_floating_point()]
        average([own for own, _ in floats], [new for _, new in floats], 1)
        for own, new in pairs:
            if not own.is_floating_point():
                own.copy_(new)
