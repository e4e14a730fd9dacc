"""Augmentation: hand-computed values, independent oracles, and the random choices."""

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
import torch

from deeplab.data.augment import TrainAugment, crop_of_scaled, eval_pad, pad_bottom_right, to_tensors
from deeplab.data.colours import colour_jitter
from deeplab.data.resize import ResizeToRange, resize_image, resize_label, resize_to_range_size, scaled_size
from deeplab.errors import UserError
from deeplab.layers.resize import resize_bilinear

TOLERANCE = 1e-4


def photo(height, width, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.integers(0, 21, (height, width), dtype=np.uint8)


def test_bilinear_aligns_corners():
    row = np.array([[[0.0], [10.0]]], dtype=np.float32)
    assert resize_image(row, (1, 5))[0, :, 0].tolist() == [0, 2.5, 5, 7.5, 10]


def test_bilinear_agrees_with_pytorch():
    image, _ = photo(37, 53)
    planes = torch.from_numpy(image).permute(2, 0, 1).float()[None]
    for size in ((20, 91), (1, 1), (74, 30), (37, 53)):
        expected = resize_bilinear(planes, size, "align_corners")[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(resize_image(image, size), expected, atol=1e-2)


def test_nearest_rounds_halves_away_from_zero():
    assert resize_label(np.array([[0, 1, 2]]), (1, 5))[0].tolist() == [0, 1, 1, 2, 2]


def test_nearest_index_equals_decimal_rounding_of_the_float32_position():
    # 2 -> 83 is a trap: position 41 is 0.49999997, and adding 0.5 in float32 gives 1.
    for source, target in ((2, 83), (2, 95), (3, 165), (64, 33), (500, 257), (7, 7)):
        step = np.float32((source - 1) / (target - 1))
        positions = [np.float32(i) * step for i in range(target)]
        expected = [int(Decimal(float(p)).quantize(Decimal(1), ROUND_HALF_UP)) for p in positions]
        got = resize_label(np.arange(source)[None], (1, target))[0].tolist()
        assert got == [min(index, source - 1) for index in expected], (source, target)


def test_resize_to_range_sizes_of_the_reference_tests():
    def size(height, width, **options):
        return resize_to_range_size(height, width, **options)

    assert size(60, 40, min_size=50, max_size=100) == (75, 50)
    assert size(15, 30, min_size=50, max_size=100) == (50, 100)
    assert size(15, 50, min_size=50, max_size=100) == (30, 100)
    assert size(60, 40, min_size=50, max_size=98, factor=8) == (81, 57)
    assert size(3936, 5248, min_size=1441, max_size=1441, factor=16) == (1089, 1441)
    assert size(60, 40, min_size=96, max_size=98, factor=8, keep_aspect_ratio=False) == (97, 97)


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.75, 2.0])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_of_scaled_equals_scale_pad_crop_flip(scale, flip):
    image, label = photo(45, 61)
    size = scaled_size(45, 61, scale)
    whole, labels = pad_bottom_right(resize_image(image, size), resize_label(label, size), (50, 40))
    row, column = max(size[0] - 50, 0), max(size[1] - 40, 0) // 2
    expected, expected_label = whole[row : row + 50, column : column + 40], labels[row:, column : column + 40]
    if flip:
        expected, expected_label = expected[:, ::-1], expected_label[:, ::-1]
    crop, crop_label = crop_of_scaled(
        image, label, scale=scale, crop_size=(50, 40), offset=(row, column), flip=flip
    )
    np.testing.assert_allclose(crop, expected, atol=TOLERANCE)
    np.testing.assert_array_equal(crop_label, expected_label)


def test_eval_refuses_an_image_larger_than_the_crop():
    with pytest.raises(UserError, match=r"50x70.*crop 65x65"):
        eval_pad(*photo(50, 70), (65, 65))


def test_one_pixel_photo_becomes_a_crop():
    augment = TrainAugment(crop_size=(5, 7))
    image, label = augment(
        np.full((1, 1, 3), 9, np.uint8), np.full((1, 1), 3, np.uint8), np.random.default_rng(0)
    )
    assert image.shape == (3, 5, 7)
    counts = torch.bincount(label.flatten().long())
    assert counts[3] >= 1 and counts[3] + counts[255] == 35


def test_train_augment_is_uint8_rounded_and_padded():
    augment = TrainAugment(crop_size=(90, 90), scale_range=(0.75, 0.75), flip_probability=0.0)
    image, label = photo(45, 61)
    got, got_label = augment(image, label, np.random.default_rng(0))
    assert got.dtype == torch.uint8 and got_label.dtype == torch.uint8
    exact, exact_label = crop_of_scaled(image, label, scale=0.75, crop_size=(90, 90))
    assert np.abs(got.numpy().transpose(1, 2, 0) - exact).max() <= 0.5
    np.testing.assert_array_equal(got_label.numpy(), exact_label)
    assert (got[:, 33:] == 128).all() and (got_label[33:] == 255).all() and (got_label[:, 45:] == 255).all()


def test_train_augment_depends_on_the_generator_alone():
    augment = TrainAugment(crop_size=(33, 33), jitter=(0.4, 0.4, 0.4))
    draws = [augment(*photo(60, 60), np.random.default_rng(seed))[0] for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_offsets_reach_both_ends():
    # Scale 1 and a crop one row smaller: the crop starts at row 0 or 1, never elsewhere.
    augment = TrainAugment(crop_size=(3, 2), scale_range=(1, 1), flip_probability=0)
    label = np.arange(8, dtype=np.uint8).reshape(4, 2)
    rng = np.random.default_rng(0)
    first = {int(augment(np.zeros((4, 2, 3), np.uint8), label, rng)[1][0, 0]) for _ in range(64)}
    assert first == {0, 2}


@pytest.mark.parametrize("probability, expected", [(0.0, {0}), (1.0, {1}), (0.5, {0, 1})])
def test_flip_probability(probability, expected):
    augment = TrainAugment(crop_size=(1, 2), scale_range=(1, 1), flip_probability=probability)
    label = np.array([[0, 1]], dtype=np.uint8)
    rng = np.random.default_rng(0)
    assert {int(augment(np.zeros((1, 2, 3), np.uint8), label, rng)[1][0, 0]) for _ in range(64)} == expected


def test_all_seven_scales_are_drawn_about_equally():
    augment = TrainAugment(crop_size=(200, 200), flip_probability=0)
    label = np.zeros((100, 1), dtype=np.uint8)
    rng = np.random.default_rng(0)
    heights = [
        int((augment(np.zeros((100, 1, 3), np.uint8), label, rng)[1] != 255).any(1).sum()) for _ in range(700)
    ]
    values, counts = np.unique(heights, return_counts=True)
    assert values.tolist() == [50, 75, 100, 125, 150, 175, 200]
    assert counts.min() > 60


def test_scale_step_zero_is_uniform():
    augment = TrainAugment(crop_size=(200, 1), scale_step=0.0, flip_probability=0)
    rng = np.random.default_rng(0)
    blank, label = np.zeros((100, 1, 3), np.uint8), np.zeros((100, 1), np.uint8)
    heights = {int((augment(blank, label, rng)[1] != 255).sum()) for _ in range(200)}
    assert len(heights) > 80 and min(heights) >= 50 and max(heights) < 200


def test_colour_jitter_extremes():
    image = photo(9, 9)[0].astype(np.float32)
    luma = image @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(colour_jitter(image, brightness=1, contrast=1, saturation=1), image, atol=1e-4)
    assert colour_jitter(image, brightness=0, contrast=1, saturation=1).max() == 0
    flat = colour_jitter(image, brightness=1, contrast=0, saturation=1)
    np.testing.assert_allclose(flat, luma.mean(), rtol=1e-5)
    grey = colour_jitter(image, brightness=1, contrast=1, saturation=0)
    np.testing.assert_allclose(grey, np.repeat(luma[..., None], 3, axis=2), rtol=1e-5)
    strong = colour_jitter(image, brightness=2, contrast=2, saturation=2)
    assert strong.min() == 0 and strong.max() == 255


def test_jitter_leaves_padding_and_labels_alone():
    image, label = photo(10, 10)
    options = {"scale": 1.0, "crop_size": (20, 20)}
    jittered, labels = crop_of_scaled(image, label, jitter=(0.5, 1.0, 1.0), **options)
    assert (jittered[10:] == 127.5).all()
    np.testing.assert_allclose(jittered[:10, :10], image * 0.5, atol=1e-4)
    np.testing.assert_array_equal(labels[:10, :10], label)


def test_to_tensors_rounds_halves_up():
    image = np.array([[[0.49, 0.5, 254.6]]], dtype=np.float32)
    assert to_tensors(image, np.zeros((1, 1), np.uint8))[0].flatten().tolist() == [0, 1, 255]


@pytest.mark.parametrize(
    "name, value",
    [
        ("crop_size", (0, 5)),
        ("scale_range", (2.0, 0.5)),
        ("scale_range", (0.0, 1.0)),
        ("scale_step", -0.25),
        ("flip_probability", 1.5),
        ("jitter", (0.4, 2.0, 0.4)),
        ("rotation", 200.0),
        ("blur_probability", -0.1),
        ("blur_range", (0.0, 1.0)),
    ],
)
def test_wrong_settings_are_named(name, value):
    settings = {"crop_size": (33, 33), name: value}
    with pytest.raises(UserError, match=name):
        TrainAugment(**settings)


def test_resize_to_range_needs_a_smallest_size():
    with pytest.raises(UserError, match=r"min_size is None.*give min_size along with max_size"):
        ResizeToRange(min_size=None, max_size=48)
    with pytest.raises(UserError, match="factor is 0"):
        ResizeToRange(min_size=9, factor=0)


def test_soft_masks_are_resized_linearly():
    _, mask = ResizeToRange(min_size=1, max_size=3)(np.zeros((1, 3, 3)), np.array([[0.0, 1.0, 0.5]]))
    assert mask.tolist() == [[0.0, 1.0, 0.5]]
    _, mask = ResizeToRange(min_size=3)(np.zeros((2, 2, 3)), np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert mask[0].tolist() == [0.0, 0.5, 1.0]
