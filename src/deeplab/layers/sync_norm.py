"""Batch norm with the statistics of all processes' batches together, on any device.

`torch.nn.SyncBatchNorm` runs on accelerators only. This one has the same result, so that training on CPUs, and
the tests, see what one process sees of the whole batch. Processes may hold different numbers of photos.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from deeplab.errors import UserError
from deeplab.layers.norm import BatchNorm2d
from deeplab.native import norm_act


class SyncBatchNorm2d(BatchNorm2d):
    """`BatchNorm2d` whose training statistics are those of all processes of the default group.

    The one-value rule of `deeplab.layers.norm` holds for the number of values in all processes.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        mean, variance, count = merged_statistics(_at_least_float32(x.detach()))
        if count == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        norm_act.remember(self, mean, variance, values=count)
        return _Normalise.apply(x, self.weight, self.bias, mean, (variance + self.eps).rsqrt(), count)


def merged_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Mean and biased variance of each channel over all processes, and the number of values a channel.

    Args:
        x: float [N, C, H, W]; N, H and W may differ from process to process.
    """
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    own = torch.cat([mean, variance, mean.new_tensor([x.numel() / x.shape[1]])])
    rows = torch.empty(dist.get_world_size(), own.numel(), dtype=own.dtype, device=own.device)
    dist.all_gather(list(rows.unbind()), own)
    counts = rows[:, -1:]
    means, variances = rows[:, :-1].chunk(2, dim=1)
    total = counts.sum()
    mean = (means * counts).sum(0) / total
    # around the common mean: no difference of large squares
    variance = ((variances + (means - mean) ** 2) * counts).sum(0) / total
    return mean, variance, int(total)


def synchronise(model: nn.Module, *, device: str) -> nn.Module:
    """`model` with every batch norm one over all processes; parameters and buffers stay the same objects.

    Raises:
        UserError: a batch norm that does more than that, as some of timm's, which would lose the rest.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    others = sorted({type(norm).__name__ for norm in norms} - {"BatchNorm2d", "SyncBatchNorm2d"})
    if others:
        raise UserError(
            f"batch norms of the kinds {', '.join(others)} cannot be synchronised",
            fix="optimise.sync_norm: false",
        )
    if device.startswith("cuda"):
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for norm in norms:
        norm.__class__ = SyncBatchNorm2d
    return model


class _Normalise(torch.autograd.Function):
    """(x - mean) * scale * weight + bias, where mean and scale are functions of every process's x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        scale: torch.Tensor,
        count: int,
    ) -> torch.Tensor:
        normal = (_at_least_float32(x) - _row(mean)) * _row(scale)
        ctx.save_for_backward(normal.to(x.dtype), weight, scale)
        ctx.count = count
        return (normal * _row(weight) + _row(bias)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normal, weight, scale = ctx.saved_tensors
        given, normal = _at_least_float32(gradients[0]), _at_least_float32(normal)
        to_bias, to_weight = given.sum((0, 2, 3)), (given * normal).sum((0, 2, 3))
        sums = torch.stack([to_bias, to_weight])
        dist.all_reduce(sums)
        mean_bias, mean_weight = sums / ctx.count
        to_x = (given - _row(mean_bias) - normal * _row(mean_weight)) * _row(weight * scale)
        # the parameters' gradients stay those of this process: they are summed with all others
        return to_x.to(gradients[0].dtype), to_weight, to_bias, None, None, None


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _row(values: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, 1, 1)
