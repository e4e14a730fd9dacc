"""TensorFlow's SAME padding against its definition, and convolutions under it against sums by hand."""

from __future__ import annotations

import itertools
import math
import operator

import numpy as np
import pytest
import torch

from deeplab.layers.conv import AtrousConv2d, same_padding


def test_every_size_kernel_and_stride_follows_the_formula() -> None:
    """Reference fact 2.3: max((ceil(n / s) - 1) * s + k - n, 0), the smaller half in front."""
    for size, kernel, stride in itertools.product(range(1, 25), range(1, 14), range(1, 6)):
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        assert same_padding(size, kernel, stride) == (total // 2, total - total // 2), (size, kernel, stride)


def test_exported_sizes_have_no_remainders_of_negative_numbers() -> None:
    """Which are C's in ExecuTorch and Python's here: its convolutions would pad odd sides too little."""
    dynamic = torch.export.Dim.DYNAMIC
    conv = AtrousConv2d(1, 1, kernel=3, stride=2).eval()
    program = torch.export.export(
        conv, (torch.zeros(1, 1, 9, 12),), dynamic_shapes=({2: dynamic, 3: dynamic},)
    )
    used = {node.target for node in program.graph.nodes}
    assert operator.floordiv in used and not used & {operator.mod, operator.neg}


@pytest.mark.parametrize(
    ("kernel", "stride", "rate"), [(2, 3, 1), (2, 5, 2), (3, 4, 1), (3, 2, 2), (1, 3, 1)]
)
def test_convolution_is_the_sum_over_same_windows(kernel: int, stride: int, rate: int) -> None:
    """Written out position by position; zeros beyond the border, ceil(n / stride) outputs."""
    random = np.random.default_rng(0)
    conv = AtrousConv2d(1, 1, kernel=kernel, stride=stride, rate=rate)
    taps = random.standard_normal((kernel, kernel)).astype(np.float32)
    conv.weight.data = torch.from_numpy(taps)[None, None]
    reach = (kernel - 1) * rate + 1
    for height, width in ((4, 7), (5, 6), (9, 8)):
        image = random.standard_normal((height, width)).astype(np.float32)
        expected = np.zeros((math.ceil(height / stride), math.ceil(width / stride)))
        before = [
            max((count - 1) * stride + reach - side, 0) // 2
            for side, count in zip((height, width), expected.shape, strict=True)
        ]
        for place in np.ndindex(expected.shape):
            for tap in np.ndindex(kernel, kernel):
                row, column = (p * stride + t * rate - b for p, t, b in zip(place, tap, before, strict=True))
                if 0 <= row < height and 0 <= column < width:
                    expected[place] += image[row, column] * taps[tap]
        with torch.no_grad():
            found = conv(torch.from_numpy(image)[None, None])[0, 0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)
