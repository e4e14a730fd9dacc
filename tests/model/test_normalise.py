"""Normalising pixels, in every memory order, is (x - mean) / std."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeplab.model.normalise import normalise

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def channels(values: tuple[float, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).view(1, -1, 1, 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_by_channel_in_every_memory_order(layout: torch.memory_format, dtype: torch.dtype) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7))
    pixels = torch.from_numpy(photo).to(dtype).contiguous(memory_format=layout)
    found = normalise(pixels, channels(MEAN), channels(STD))
    wide = np.float64 if dtype == torch.float64 else np.float32
    mean, std = (np.float32(values)[:, None, None] for values in (MEAN, STD))
    np.testing.assert_array_equal(found.numpy(), (photo.astype(wide) - mean) / std)
    assert found.numpy().dtype == wide and found.is_contiguous(memory_format=layout)


def test_a_lower_precision_stays() -> None:
    pixels = (
        torch.arange(24, dtype=torch.uint8).view(1, 3, 2, 4).contiguous(memory_format=torch.channels_last)
    )
    mean, std = channels((127.5,) * 3, torch.bfloat16), channels((127.5,) * 3, torch.bfloat16)
    found = normalise(pixels, mean, std)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, (pixels.contiguous() - mean) / std)


def test_gradients_pass() -> None:
    pixels = torch.rand(1, 3, 2, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    normalise(pixels, channels(MEAN), channels(STD)).sum().backward()
    np.testing.assert_allclose(pixels.grad[0, :, 0, 0].numpy(), 1 / np.array(STD), rtol=1e-6)
