"""A dense convolution whose weights' gradient is made by matrix products, for processors with AVX2 and no AVX-512.

There oneDNN's (torch 2.13) own, channels last, runs at a quarter to two thirds of its forward pass's speed. The forward
pass and the image's gradient are oneDNN's. Equal to `torch.nn.functional.conv2d` up to the order of sums.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# outputs whose inputs are laid out side by side for one product: it stays in the processor's cache
OUTPUTS = 512
# of weights in a 1x1 kernel; oneDNN does as well with fewer
LEAST_WEIGHTS = 1 << 16
# for larger kernels: channels, as what is copied at a time; and outputs, for which what was copied is used
LEAST_CHANNELS, LEAST_OUTPUTS = 16, 32

Pair = tuple[int, int]


def wins(x: torch.Tensor, weight: torch.Tensor, *, stride: Pair, groups: int) -> bool:
    """Whether `dense_conv` can run, and its gradient is faster than oneDNN's.

    Eager calls in training on the CPU, float32, channels last.
    """
    return (
        torch.is_grad_enabled()
        and weight.requires_grad
        and groups == 1
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and _faster(weight.shape, stride)
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and type(x) is torch.Tensor
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
    )


def _faster(shape: torch.Size, stride: Pair) -> bool:
    outputs, channels, *kernel = shape
    if kernel == [1, 1]:
        return stride == (1, 1) and outputs * channels >= LEAST_WEIGHTS
    return channels >= LEAST_CHANNELS and outputs >= LEAST_OUTPUTS


def dense_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    stride: Pair,
    padding: Pair,
    rate: Pair,
) -> torch.Tensor:
    """Convolution where it `wins`: [N, in, H, W] -> [N, out, H', W'], as `conv2d` with these arguments."""
    return _Dense.apply(x, weight, bias, stride, padding, rate)


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: Pair,
        padding: Pair,
        rate: Pair,
    ) -> torch.Tensor:
        ctx.place = (stride, padding, rate)
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, stride, padding, rate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            wanted = (True, False, False)
            of_x, _, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, *ctx.place, False, (0, 0), 1, wanted
            )
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(x, gradient, weight.shape, *ctx.place)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None, None, None


def weight_gradient(
    x: torch.Tensor, gradient: torch.Tensor, shape: torch.Size, stride: Pair, padding: Pair, rate: Pair
) -> torch.Tensor:
    """The gradient of a convolution's weights, float32 of `shape` [out, in, K, L].

    Args:
        x: its input, float32 [N, in, H, W], channels last.
        gradient: that of its output, [N, out, H', W'], channels last.
        stride, padding, rate: vertical and horizontal.
    """
    outputs, channels, *kernel = shape
    x, gradient = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    if kernel == [1, 1] and padding == (0, 0):
        return (x.reshape(-1, channels).t() @ gradient.reshape(-1, outputs)).t()[..., None, None]
    x = F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    found = x.new_zeros(outputs, kernel[0] * kernel[1] * channels)
    images, height, width, _ = gradient.shape
    rows = max(1, OUTPUTS // width)
    laid_out = x.new_empty(rows, width, *kernel, channels)
    _, down, right, _ = x.stride()
    steps = (down * stride[0], right * stride[1], down * rate[0], right * rate[1], 1)
    for image in range(images):
        for top in range(0, height, rows):
            count = min(rows, height - top)
            begin = x[image, top * stride[0]].storage_offset()
            part = laid_out[:count].copy_(x.as_strided((count, width, *kernel, channels), steps, begin))
            found.addmm_(
                gradient[image, top : top + count].reshape(count * width, outputs).t(),
                part.view(count * width, -1),
            )
    return found.view(outputs, *kernel, channels).permute(0, 3, 1, 2)
