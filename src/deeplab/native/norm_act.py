"""Batch norm in training and the activation behind it as one operation: `norm_act.cpp` as an autograd function.

PyTorch keeps the norm's input and its output for the backward pass, besides the activation's output that the next
convolution keeps, and reads and writes each once more. This keeps the input alone and computes the rest again: a
quarter to a third less memory for a training step, and some percent less time. Equal to `activation(norm(x))` up to
the order of sums, which are kept in float64 as PyTorch's are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from deeplab.native.build import INT, LONG, POINTER, Kernel

KERNEL = Kernel(
    __name__,
    {
        "deeplab_norm_chunk": (LONG,),
        "deeplab_norm_statistics": (None, LONG, LONG, INT, *[POINTER] * 4),
        "deeplab_norm_act": (INT, LONG, LONG, INT, INT, *[POINTER] * 4),
        "deeplab_norm_act_sums": (INT, LONG, LONG, INT, INT, *[POINTER] * 8),
        "deeplab_norm_act_back": (INT, LONG, LONG, INT, INT, *[POINTER] * 8),
    },
)
# by number, as in the C++ source
ACTIVATIONS = {nn.Identity: 0, nn.ReLU: 1, nn.ReLU6: 2, nn.Hardswish: 3}
DTYPES = (torch.float32, torch.bfloat16)


def wins(x: torch.Tensor, norm: nn.BatchNorm2d, activation: nn.Module) -> bool:
    """Whether `norm_act` can run: a norm that takes the batch's statistics, eager, on the CPU, channels last."""
    return (
        norm.training
        and type(activation) in ACTIVATIONS
        and type(x) is torch.Tensor
        and x.device.type == "cpu"
        and x.dtype in DTYPES
        and norm.weight is not None
        and norm.weight.dtype == torch.float32
        and norm.momentum is not None
        and norm.running_mean is not None
        and x.numel() > x.shape[1]
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and KERNEL.ready()
    )


def norm_act(x: torch.Tensor, norm: nn.BatchNorm2d, activation: nn.Module) -> torch.Tensor:
    """`activation(norm(x))` where it `wins`; the running statistics are updated as the norm would.

    Args:
        x: float32 or bfloat16 [N, C, H, W], channels last, more than one value a channel.
        norm: in train mode.
        activation: one of ACTIVATIONS.

    Returns:
        [N, C, H, W] of x's dtype, channels last.
    """
    return _NormAct.apply(x, norm.weight, norm.bias, norm, ACTIVATIONS[type(activation)])


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        norm: nn.BatchNorm2d,
        activation: int,
    ) -> torch.Tensor:
        mean, variance = _statistics(x)
        remember(norm, mean, variance, values=x.numel() // x.shape[1])
        inverse = (variance + norm.eps).rsqrt()
        scale = weight.detach() * inverse
        offset = bias.detach() - mean * scale
        ctx.save_for_backward(x, scale, offset, mean, inverse)
        ctx.activation = activation
        y = torch.empty_like(x)
        _run(KERNEL.library.deeplab_norm_act, x, activation, tensors=(x, scale, offset, y))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, scale, offset, mean, inverse = ctx.saved_tensors
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        forward = x, gradient, scale, offset, mean
        of_bias, of_scale = torch.empty(2, x.shape[1])
        sums = (*forward, _partial(x), of_bias, of_scale)
        _run(KERNEL.library.deeplab_norm_act_sums, x, ctx.activation, tensors=sums)
        of_x = None
        if ctx.needs_input_grad[0]:
            values = x.numel() // x.shape[1]
            by_value, constant = -scale * inverse**2 * of_scale / values, -scale * of_bias / values
            of_x = torch.empty_like(x)
            rest = (*forward, by_value, constant, of_x)
            _run(KERNEL.library.deeplab_norm_act_back, x, ctx.activation, tensors=rest)
        return of_x, of_scale * inverse, of_bias, None, None


def _statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each channel."""
    mean, variance = torch.empty(2, x.shape[1])
    _run(KERNEL.library.deeplab_norm_statistics, x, tensors=(x, _partial(x), mean, variance))
    return mean, variance


@torch.no_grad()
def remember(norm: nn.BatchNorm2d, mean: torch.Tensor, variance: torch.Tensor, *, values: int) -> None:
    """Update running statistics, which `norm` keeps by a momentum, by a batch's mean and biased variance."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (values / (values - 1)), norm.momentum)


def _partial(x: torch.Tensor) -> torch.Tensor:
    """Room for two sums a channel and chunk."""
    rows = x.numel() // x.shape[1]
    return torch.empty(-(-rows // KERNEL.library.deeplab_norm_chunk()), 2, x.shape[1], dtype=torch.float64)


def _run(
    function: Callable[..., Any], x: torch.Tensor, *activation: int, tensors: Sequence[torch.Tensor]
) -> None:
    """Call the kernel with what x is and where the tensors lie, which are held until it is done."""
    rows, channels = x.numel() // x.shape[1], x.shape[1]
    pointers = [tensor.data_ptr() for tensor in tensors]
    function(rows, channels, x.dtype == torch.bfloat16, *activation, *pointers)
