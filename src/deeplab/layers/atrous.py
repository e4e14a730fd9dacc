"""Where strides become atrous rates: one set of weights at any output stride.

v1 section 3.1, v3 section 3.1, reference fact 2.2: replacing "stride 2, then rate 1" by "stride 1, then
rate 2" for every later layer keeps the weights and doubles the density of the output. Backbones list the
nominal strides of their units and ask `plan_strides` what each unit does at the wanted output stride;
heads state their rates at the model's native output stride and ask `scale_rate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from deeplab.config import RateGrowth


class Atrous(NamedTuple):
    """What one unit of a backbone does: its stride and the rate of its atrous convolutions."""

    stride: int
    rate: int


def plan_strides(
    nominal: Sequence[int], output_stride: int, *, rate_grows_at: RateGrowth = "next_unit"
) -> list[Atrous]:
    """Turn nominal unit strides into (stride, rate) pairs that reach `output_stride`.

    While the product of strides is below the target a unit keeps its stride, at rate 1. After that, every
    unit runs at stride 1 and the current rate, and multiplies the rate by its nominal stride for the units
    *behind* it: the first unit that loses its stride still has the old rate. `rate_grows_at='unit'` gives
    that unit the new rate too.

    Args:
        nominal: stride of each unit in forward order, counted from the input image.
        output_stride: wanted ratio of the input's side to the last feature map's side.

    Raises:
        ValueError: no prefix of the strides multiplies to `output_stride`.
    """
    current, rate, plan = 1, 1, []
    for stride in nominal:
        if current == output_stride:
            plan.append(Atrous(1, rate * stride if rate_grows_at == "unit" else rate))
            rate *= stride
        else:
            plan.append(Atrous(stride, 1))
            current *= stride
    if current != output_stride:
        reachable, product = [], 1
        for stride in nominal:
            if stride > 1:
                product *= stride
                reachable.append(product)
        raise ValueError(
            f"output stride {output_stride} cannot be reached by this backbone; choose one of {reachable}"
        )
    return plan


def scale_rate(rate: int, *, native: int, output_stride: int) -> int:
    """Rate at `output_stride` of a convolution whose `rate` is stated at output stride `native`.

    Rates double when the output stride halves (v3 section 4.1.2: 6, 12, 18 at 16; 12, 24, 36 at 8). A rate
    never falls below 1; rate 1 stays 1 wherever it is stated as 1, since a 3x3 of rate 1 covers neighbours.
    """
    return max(1, round(rate * native / output_stride))
