"""Resize rules against values computed by hand from their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeplab.layers.conv import AtrousConv2d, same_padding
from deeplab.layers.pool import MaxPool
from deeplab.layers.resize import resize_bilinear, resize_nearest, scale_dimension


def test_scale_dimension_is_the_references() -> None:
    assert [scale_dimension(321, scale) for scale in (0.5, 0.6, 0.75)] == [161, 193, 241]
    assert [scale_dimension(513, s) for s in (0.5, 0.75, 1.25, 1.5, 1.75)] == [257, 385, 641, 769, 897]
    assert scale_dimension(65, 1 / 16) == 5


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("align_corners", [0.0, 2.0, 4.0, 6.0]),  # source = i * 1 / 3
        ("half_pixel", [0.0, 1.5, 4.5, 6.0]),  # source = (i + 0.5) / 2 - 0.5, clamped
        ("legacy", [0.0, 3.0, 6.0, 6.0]),  # source = i / 2
    ],
)
def test_rules_by_hand(rule: str, expected: list[float]) -> None:
    row = torch.tensor([0.0, 6.0]).view(1, 1, 1, 2)
    torch.testing.assert_close(resize_bilinear(row, (1, 4), rule).flatten(), torch.tensor(expected))
    column = resize_bilinear(row.transpose(2, 3), (4, 1), rule)
    torch.testing.assert_close(column.flatten(), torch.tensor(expected))


def test_nearest_does_not_round_just_below_half_up() -> None:
    """2 -> 83: position 41 / 82 is 0.49999997 in float32 for a step rounded down."""
    for target in (83, 95):
        step = np.float32(1 / (target - 1))
        exact = [int(np.floor(float(np.float32(i) * step) + 0.5)) for i in range(target)]
        assert resize_nearest(torch.tensor([[0, 1]]), (1, target))[0].tolist() == exact


def test_same_padding_is_tensorflows() -> None:
    assert same_padding(65, 3, 2) == (1, 1)
    assert same_padding(64, 3, 2) == (0, 1)
    assert same_padding(65, 5, 2) == (2, 2)
    assert same_padding(64, 5, 2) == (1, 2)
    assert same_padding(64, 1, 2) == (0, 0)
    assert same_padding(64, 3, 1) == (1, 1)


def test_strided_convolution_on_an_even_size() -> None:
    """Reference Appendix B: x[i, j] = i + j, k[i, j] = i + j."""

    def strided(size: int, rule: str) -> list[list[float]]:
        grid = torch.arange(size)
        conv = AtrousConv2d(1, 1, kernel=3, stride=2, padding_rule=rule)
        with torch.no_grad():
            ramp = torch.arange(3.0)
            conv.weight.copy_((ramp[:, None] + ramp)[None, None])
            return conv((grid[:, None] + grid).float()[None, None])[0, 0].tolist()

    assert strided(4, "symmetric") == [[14, 43], [43, 84]]
    assert strided(4, "same") == [[48, 37], [37, 22]]
    for rule in ("same", "symmetric"):
        assert strided(5, rule) == [[14, 43, 34], [43, 84, 55], [34, 55, 30]]


def test_max_pool_on_an_even_size() -> None:
    x = -torch.arange(16.0).view(1, 1, 4, 4)
    assert MaxPool(stride=2, padding_rule="same")(x)[0, 0].tolist() == [[0, -2], [-8, -10]]
    assert MaxPool(stride=2, padding_rule="symmetric")(x)[0, 0].tolist() == [[0, -1], [-4, -5]]
