"""The compiled training crop equals the plain one, value for value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deeplab.data import fast_crop
from deeplab.data.augment import TrainAugment, crop_of_scaled
from deeplab.data.fast_crop import can_crop, crop_of_bytes
from deeplab.data.resize import scaled_size
from deeplab.train.batches import collate

IMAGENET = (123.15, 115.9, 103.06)
Sizes = tuple[int, int]


def photo(size: Sizes, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return image, rng.integers(0, 256, size, dtype=np.uint8)


def require_compiler() -> None:
    if not can_crop(*photo((1, 1))):
        pytest.skip("no C++ compiler here")


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 0.3141, 2.718])
@pytest.mark.parametrize("flip", [False, True])
def test_equals_the_plain_crop(scale: float, flip: bool) -> None:
    require_compiler()
    rng = np.random.default_rng([int(scale * 1000), flip])
    for case in range(12):
        image, label = photo((int(rng.integers(1, 80)), int(rng.integers(1, 80))), seed=case)
        crop_size = int(rng.integers(1, 100)), int(rng.integers(1, 100))
        size = scaled_size(*label.shape, scale=scale)
        offset = tuple(
            int(rng.integers(max(whole - side, 0) + 1)) for whole, side in zip(size, crop_size, strict=True)
        )
        choices = {"scale": scale, "crop_size": crop_size, "offset": offset, "flip": flip}
        choices |= {"pad_pixel": IMAGENET, "ignore_label": 254}
        plain, plain_labels = crop_of_scaled(image, label, **choices)
        crop, labels = crop_of_bytes(image, label, **choices)
        np.testing.assert_array_equal(crop, np.floor(plain + np.float32(0.5)))
        np.testing.assert_array_equal(labels, plain_labels)


def test_by_hand() -> None:
    """2 x 2 pixels to 3 x 3: means of neighbours, halves up; nearest of a half is the second."""
    require_compiler()
    image = np.repeat(np.array([[0, 1], [10, 20]], np.uint8)[..., None], 3, axis=2)
    label = np.array([[1, 2], [3, 4]], np.uint8)
    crop, labels = crop_of_bytes(
        image,
        label,
        scale=1.5,
        crop_size=(4, 4),
        offset=(0, 0),
        flip=True,
        pad_pixel=IMAGENET,
        ignore_label=255,
    )
    assert crop[..., 0].tolist() == [[123, 1, 1, 0], [123, 11, 8, 5], [123, 20, 15, 10], [123] * 4]
    assert crop[3, 3].tolist() == [123, 116, 103]
    assert labels.tolist() == [[255, 2, 2, 1], [255, 4, 4, 3], [255, 4, 4, 3], [255] * 4]


def test_reads_views_in_any_memory_order() -> None:
    require_compiler()
    image, label = photo((30, 20))
    choices = {"scale": 1.25, "crop_size": (33, 31), "offset": (0, 0), "flip": False}
    choices |= {"pad_pixel": IMAGENET, "ignore_label": 255}
    wanted = crop_of_bytes(image[::-1, ::2].copy(), label[::-1, ::2].copy(), **choices)
    got = crop_of_bytes(image[::-1, ::2], label[::-1, ::2], **choices)
    np.testing.assert_array_equal(got[0], wanted[0])
    np.testing.assert_array_equal(got[1], wanted[1])


def test_samples_are_the_same_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    require_compiler()
    augment, data = TrainAugment(crop_size=(41, 37), pad_pixel=IMAGENET), photo((40, 44))
    compiled = [augment(*data, np.random.default_rng(seed)) for seed in range(20)]
    monkeypatch.setenv("DEEPLAB_KERNELS", "plain")
    monkeypatch.setattr(fast_crop, "KERNEL", replace(fast_crop.KERNEL))
    for seed, (image, label) in enumerate(compiled):
        plain_image, plain_label = augment(*data, np.random.default_rng(seed))
        assert torch.equal(image, plain_image) and torch.equal(label, plain_label)


def test_other_pixels_than_bytes_take_the_plain_crop() -> None:
    image, label = photo((9, 9))
    assert not can_crop(image.astype(np.float32), label)
    assert not can_crop(image, label.astype(np.int32))
    assert not can_crop(image[..., :1], label)
    grey = image.astype(np.float32) * np.float32(0.5)
    crop, _ = TrainAugment(crop_size=(9, 9), scale_range=(1, 1), flip_probability=0)(
        grey, label, np.random.default_rng(0)
    )
    # floats are no bytes, and are not rounded to them
    np.testing.assert_array_equal(crop.numpy().transpose(1, 2, 0), grey)


def test_batches_are_channels_last_and_hold_the_samples() -> None:
    samples = [
        TrainAugment(crop_size=(5, 7))(*photo((6, 8), seed), np.random.default_rng(seed)) for seed in (1, 2)
    ]
    images, labels = collate(samples)
    assert images.shape == (2, 3, 5, 7) and images.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(images[index], image) for index, (image, _) in enumerate(samples))
    assert all(torch.equal(labels[index], label) for index, (_, label) in enumerate(samples))
    # whatever the samples' own memory order
    again, _ = collate([(image.contiguous(), label) for image, label in samples])
    assert torch.equal(again, images)
