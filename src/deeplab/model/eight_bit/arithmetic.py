"""Integer arithmetic of quantised networks, as XNNPACK (TensorFlow Lite's default CPU kernels) rounds.

A real value stands on a grid: scale * (stored - zero point), stored in 8 bits (TensorFlow Lite 8-bit
quantisation specification). All here works on steps = stored - zero point. Networks amplify roundings: that
a half goes up in one operation and to the even number in another is visible in the labels, so each rule is
XNNPACK's own: 'fp32' requantisation behind convolutions, fixed point for sums and changes of grid, weights
of 11 bits for resizing.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import nn
from torch.func import functional_call

from deeplab.config import ResizeRule, Strict

# float32 holds all whole numbers up to here
EXACT = 1 << 24
LARGEST_STEP = 255
# channels that were pruned have biases of this order, and saturate in any case
LARGEST_BIAS = 1 << 30
ADD_BITS = 20
QUANTISE_BITS = 8
RESIZE_BITS = 11


class Grid(Strict):
    """The values that 8 bits can hold: scale * (stored - zero_point), stored in low..low + 255."""

    scale: PositiveFloat
    zero_point: int
    low: Literal[0, -128]

    @property
    def bounds(self) -> tuple[int, int]:
        """Least and largest step."""
        least = self.low - self.zero_point
        return least, least + LARGEST_STEP


class QuantisedMap(NamedTuple):
    """steps: float32 [N, C, H, W], whole numbers within `grid.bounds`."""

    steps: torch.Tensor
    grid: Grid

    @property
    def real(self) -> torch.Tensor:
        """The values, float32 [N, C, H, W]."""
        return self.steps * self.grid.scale


def nearest(x: torch.Tensor, grid: Grid) -> QuantisedMap:
    """Real values [N, C, H, W] to the nearest on `grid`."""
    return QuantisedMap(torch.round(x.float() / grid.scale).clamp(*grid.bounds), grid)


def convolve(
    x: QuantisedMap, layer: nn.Conv2d, weight_scale: torch.Tensor, grid: Grid, activation: nn.Module
) -> QuantisedMap:
    """`layer` and `activation` on `x`, rounded to `grid`.

    Args:
        layer: has real weights, on grids of `weight_scale` (float32 [out] or [1]), and a bias.
        activation: ReLU, ReLU6 or the identity; they are bounds of the result.
    """
    weight = torch.round(layer.weight.detach().float() / weight_scale.view(-1, 1, 1, 1))
    sum_scale = x.grid.scale * weight_scale
    bias = torch.round(layer.bias.detach().float() / sum_scale).clamp(-LARGEST_BIAS, LARGEST_BIAS).int()
    total = exact_convolution(x.steps, layer, weight) + bias.view(-1, 1, 1)
    least, largest = grid.bounds
    if isinstance(activation, nn.ReLU | nn.ReLU6):
        least = max(least, 0)
    if isinstance(activation, nn.ReLU6):
        largest = min(largest, round(6 / grid.scale))
    # by a tensor: a GPU divides by a number as a product with its reciprocal, which rounds otherwise
    multiplier = sum_scale / sum_scale.new_tensor(grid.scale)
    return QuantisedMap(requantise(total, multiplier).clamp(least, largest), grid)


def exact_convolution(steps: torch.Tensor, layer: nn.Conv2d, weight: torch.Tensor) -> torch.Tensor:
    """int32 sums of products of whole numbers, with the padding, stride and rate of `layer`.

    float32 convolution is exact while no sum can pass 2^24. Where one might, weights are taken as 16 * high
    + low, with digits of both signs: either sum then stays below it, up to 4,100 products each.
    """
    parts = [(1, weight)]
    if LARGEST_STEP * float(weight.abs().sum((1, 2, 3)).max()) >= EXACT:
        high = torch.round(weight / 16)
        parts = [(16, high), (1, weight - 16 * high)]
    no_bias = weight.new_zeros(len(weight))
    with torch.autocast(steps.device.type, enabled=False):
        sums = [
            factor * functional_call(layer, {"weight": part, "bias": no_bias}, steps).int()
            for factor, part in parts
        ]
    return sum(sums[1:], sums[0])


def requantise(total: torch.Tensor, multiplier: torch.Tensor) -> torch.Tensor:
    """Steps from int32 sums [N, C, H, W]: the float32 product with `multiplier` [C] or [1], half to even."""
    return torch.round(total.float() * multiplier.view(-1, 1, 1))


def add(a: QuantisedMap, b: QuantisedMap, grid: Grid) -> QuantisedMap:
    """The sum on `grid`: multipliers of 21 bits, half up."""
    ratios = [float(np.float32(x.grid.scale) / np.float32(grid.scale)) for x in (a, b)]
    shift = ADD_BITS + 1 - math.frexp(max(ratios))[1]
    # np.rint and torch.round alike take halves to even
    first, second = (int(np.rint(math.ldexp(ratio, shift))) for ratio in ratios)
    total = a.steps.int() * first + b.steps.int() * second
    return QuantisedMap(_shift(total, shift).clamp(*grid.bounds), grid)


def to_grid(x: QuantisedMap, grid: Grid) -> QuantisedMap:
    """The same values on another grid: the ratio of scales in 1/256, half up."""
    if x.grid == grid:
        return x
    ratio = np.float32(1 << QUANTISE_BITS) * np.float32(x.grid.scale) / np.float32(grid.scale)
    steps = _shift(x.steps.int() * int(np.rint(ratio)), QUANTISE_BITS)
    return QuantisedMap(steps.clamp(*grid.bounds), grid)


def mean(x: QuantisedMap) -> QuantisedMap:
    """Mean over the map, [N, C, 1, 1] on the same grid; halves of stored values away from zero."""
    count = x.steps.shape[-2] * x.steps.shape[-1]
    total = x.steps.long().sum((2, 3), keepdim=True) + count * x.grid.zero_point
    stored = total.sign() * ((2 * total.abs() + count) // (2 * count))
    return QuantisedMap((stored - x.grid.zero_point).float(), x.grid)


def resize(x: QuantisedMap, size: tuple[int, int], rule: ResizeRule) -> QuantisedMap:
    """Bilinear resize to [N, C, *size] on the same grid: weights in 1/2048, half up."""
    height, width = x.steps.shape[-2:]
    if (height, width) == tuple(size):
        return x
    if (height, width) == (1, 1):
        return QuantisedMap(x.steps.expand(-1, -1, *size), x.grid)
    rows = _interpolate(x.steps.int(), size[1], -1, rule)
    return QuantisedMap(_shift(_interpolate(rows, size[0], -2, rule), 2 * RESIZE_BITS), x.grid)


def _interpolate(x: torch.Tensor, target: int, axis: int, rule: ResizeRule) -> torch.Tensor:
    # 2048 times the values between neighbours
    source = x.shape[axis]
    aligned = int(rule == "align_corners" and target > 1)
    scale = float(np.float32(source - aligned) / np.float32(target - aligned))
    position = torch.arange(target, dtype=torch.float32, device=x.device) * scale
    if rule == "half_pixel":
        position = (position + (0.5 * scale - 0.5)).clamp(0, source - 1)
    low = position.floor().int().clamp(max=source - 1)
    weight = torch.round((position - low) * (1 << RESIZE_BITS)).int()
    dim = x.dim() + axis
    first = x.index_select(dim, low)
    second = x.index_select(dim, (low + 1).clamp(max=source - 1))
    return (first << RESIZE_BITS) + (second - first) * (weight[:, None] if axis == -2 else weight)


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    return ((x + (1 << (bits - 1))) >> bits).float()
