"""8-bit arithmetic: every rounding rule by hand, exact sums, and when a model uses it.

Parity with a quantised network's own runtime is in importers/test_tflite_eight_bit.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deeplab import DeepLab
from deeplab.config import ASPPConfig, DeepLabConfig, backbone_config
from deeplab.errors import UserError
from deeplab.layers.conv import AtrousConv2d
from deeplab.model.eight_bit.arithmetic import (
    Grid,
    QuantisedMap,
    add,
    convolve,
    exact_convolution,
    mean,
    nearest,
    requantise,
    resize,
    to_grid,
)


def grid(scale: float, zero_point: int = 0, low: int = -128) -> Grid:
    return Grid(scale=scale, zero_point=zero_point, low=low)


def steps(*values: float, on: Grid) -> QuantisedMap:
    return QuantisedMap(torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1), on)


def flat(x: QuantisedMap | torch.Tensor) -> list[float]:
    return (x.steps if isinstance(x, QuantisedMap) else x).flatten().tolist()


class TestRequantisation:
    def test_halves_go_to_the_even_number(self) -> None:
        total = torch.tensor([1, 3, 5, -1, -3, 4], dtype=torch.int32).view(1, 1, 1, -1)
        assert flat(requantise(total, torch.tensor([0.5]))) == [0, 2, 2, 0, -2, 2]

    def test_the_product_is_of_float32(self) -> None:
        # 2^24 + 1 has no float32: it becomes 2^24, whose 2^25th part is exactly a half, and goes to 0;
        # exact arithmetic would give 0.50000003, and 1
        total = torch.tensor([2**24 + 1], dtype=torch.int32).view(1, 1, 1, 1)
        assert flat(requantise(total, torch.tensor([2.0**-25]))) == [0]

    def test_each_channel_has_its_multiplier(self) -> None:
        total = torch.tensor([100, 100], dtype=torch.int32).view(1, 2, 1, 1)
        assert flat(requantise(total, torch.tensor([0.1, 0.25]))) == [10, 25]


class TestConvolution:
    def layer(self, weight: list[float], bias: float) -> AtrousConv2d:
        layer = AtrousConv2d(len(weight), 1, kernel=1, bias=True)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(weight).view(1, -1, 1, 1))
            layer.bias.fill_(bias)
        return layer

    @pytest.mark.parametrize(
        ("activation", "expected"), [(nn.Identity(), -28), (nn.ReLU(), 0), (nn.ReLU6(), 0)]
    )
    def test_by_hand(self, activation: nn.Module, expected: int) -> None:
        # weights 3 and -5 steps of 0.25, input 10 and 20 of 0.5, bias 14 of 0.125: 30 - 100 + 14 = -56
        layer = self.layer([0.75, -1.25], 1.75)
        x = QuantisedMap(torch.tensor([10.0, 20.0]).view(1, 2, 1, 1), grid(0.5))
        out = convolve(x, layer, torch.tensor([0.25]), grid(0.25), activation)
        assert flat(out) == [expected]
        assert out.real.item() == expected * 0.25

    def test_results_stay_within_8_bits_and_the_activation(self) -> None:
        layer, x = self.layer([1.0], 0.0), steps(100, on=grid(1.0))
        # stored 100 + 60 ends at 127; six is 60 steps of 0.1
        assert flat(convolve(x, layer, torch.tensor([1.0]), grid(1.0, 60), nn.Identity())) == [67]
        assert flat(convolve(x, layer, torch.tensor([1.0]), grid(0.1, -100), nn.ReLU6())) == [60]

    @pytest.mark.parametrize("largest", [1, 127, 255])
    def test_sums_are_exact_beyond_what_float32_holds(self, largest: int) -> None:
        generator = np.random.default_rng(0)
        weight = generator.integers(-largest, largest + 1, (4, 2000, 1, 1))
        weight[0] = largest
        values = generator.integers(0, 256, (1, 2000, 3, 1))
        values[..., 0, 0] = 255
        layer = AtrousConv2d(2000, 4, kernel=1)
        sums = exact_convolution(torch.from_numpy(values).float(), layer, torch.from_numpy(weight).float())
        expected = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], values)
        assert (largest == 1) == (expected.max() < 2**24)
        np.testing.assert_array_equal(sums.numpy(), expected)

    def test_stride_and_rate_are_the_layers_own(self) -> None:
        layer = AtrousConv2d(1, 1, kernel=3, stride=2, padding_rule="same", bias=True)
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
        x = QuantisedMap(torch.arange(16.0).view(1, 1, 4, 4), grid(1.0))
        # SAME pads an even side behind only: 0+1+2+4+5+6+8+9+10, 2+3+6+7+10+11, 8+9+10+12+13+14, ...
        out = convolve(x, layer, torch.tensor([1.0]), grid(1.0, -128), nn.Identity())
        assert flat(out) == [45, 39, 66, 50]


def test_sums_of_maps_take_halves_up() -> None:
    a, b = steps(3, -3, 100, on=grid(0.5)), steps(1, -1, 100, on=grid(0.25))
    # 3 + 1 / 2 and its negative; 150 ends at 127
    assert flat(add(a, b, grid(0.5))) == [4, -3, 127]


def test_multipliers_of_sums_have_21_bits() -> None:
    # 1/101 is 10382 / 2^20, and 50 of it 0.495; 41 / 2^12 would make 0.5005
    assert flat(add(steps(50, on=grid(1.0)), steps(0, on=grid(101.0)), grid(101.0))) == [0]


def test_another_grid_is_a_ratio_in_256ths_and_halves_go_up() -> None:
    # a third is 85 / 256: 200 / 3 is 66.67, 200 * 85 / 256 is 66.4
    assert flat(to_grid(steps(9, 200, on=grid(1.0, low=0)), grid(3.0, low=0))) == [3, 66]
    assert flat(to_grid(steps(1, 3, -1, -3, on=grid(1.0)), grid(2.0))) == [1, 2, 0, -1]


@pytest.mark.parametrize(
    ("low", "zero_point", "stored", "expected"), [(0, 3, (0, 1), 1), (-128, 0, (-1, 0), -1)]
)
def test_means_take_halves_of_stored_values_away_from_zero(
    low: int, zero_point: int, stored: tuple[int, int], expected: int
) -> None:
    x = steps(*(value - zero_point for value in stored), on=grid(1.0, zero_point, low))
    assert flat(mean(x)) == [expected - zero_point]


class TestResize:
    @pytest.mark.parametrize(
        ("rule", "target", "values", "expected"),
        [
            # at 0, 1/4, 1/2, 3/4 and 1 of the way; halves go up, so minus a half goes to 0
            ("align_corners", 5, (0, 1), [0, 0, 1, 1, 1]),
            ("align_corners", 5, (0, -1), [0, 0, 0, -1, -1]),
            # at 0, 1/2, 1 and 3/2, the last one clipped
            ("legacy", 4, (0, 3), [0, 2, 3, 3]),
            # at -1/4, 1/4, 3/4 and 5/4, clipped to 0 and 1
            ("half_pixel", 4, (0, 8), [0, 2, 6, 8]),
        ],
    )
    def test_by_hand(self, rule: str, target: int, values: tuple[int, int], expected: list[int]) -> None:
        x = steps(*values, on=grid(1.0))
        assert flat(resize(x, (1, target), rule)) == expected
        upright = QuantisedMap(x.steps.transpose(2, 3), x.grid)
        assert flat(resize(upright, (target, 1), rule)) == expected

    def test_weights_are_2048ths(self) -> None:
        # 1/13 is nearest to 158 / 2048: 253 * 158 / 2048 = 19.52, while 253 / 13 = 19.46
        assert flat(resize(steps(0, 253, on=grid(1.0, low=0)), (1, 14), "align_corners"))[1] == 20
        # 160 * 158 / 2048 = 12.34; with 256ths it would be 160 * 20 / 256 = 12.5
        assert flat(resize(steps(0, 160, on=grid(1.0, low=0)), (1, 14), "align_corners"))[1] == 12

    def test_rounds_once_for_both_directions(self) -> None:
        # the centre is a quarter; rows rounded first would make it the half of 1, and 1
        x = QuantisedMap(torch.tensor([[0.0, 1.0], [0.0, 0.0]]).view(1, 1, 2, 2), grid(1.0))
        assert flat(resize(x, (3, 3), "align_corners")) == [0, 1, 1, 0, 0, 1, 0, 0, 0]


def test_real_values_go_to_the_nearest_step_and_no_further_than_8_bits() -> None:
    on = grid(0.5, zero_point=-128)
    assert flat(nearest(torch.tensor([0.2, 0.3, -1.0, 1000.0]).view(1, 1, 1, 4), on)) == [0, 1, 0, 255]


def test_a_model_without_scales_says_so() -> None:
    config = DeepLabConfig(
        backbone=backbone_config("mobilenet_v2", width=0.25),
        context=ASPPConfig(channels=8),
        num_classes=2,
    )
    model = DeepLab(config)
    assert model.eight_bit is False
    with pytest.raises(UserError, match="not imported from a quantised file"):
        model.eight_bit = True
    model.eight_bit = False
