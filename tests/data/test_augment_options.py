"""Augmentation beyond the reference: rotation, blur, choice of crops, copy-paste, and what a recipe makes of it."""

import numpy as np
import pytest
import torch

from deeplab.config import PixelConfig
from deeplab.data.augment import TrainAugment
from deeplab.data.augment_recipe import AugmentRecipe, train_transform, with_copy_paste
from deeplab.data.colours import blur
from deeplab.data.copy_paste import CopyPaste, paste
from deeplab.data.crop_choice import CropChoice
from deeplab.data.resize import ResizeToRange
from deeplab.data.rotation import rotate
from deeplab.errors import UserError


def photo(height, width):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.integers(0, 21, (height, width), dtype=np.uint8)


def test_a_quarter_turn_is_exact():
    image, label = photo(9, 9)
    turned, labels = rotate(image, label, degrees=90, pad_pixel=(0, 0, 0), ignore_label=255)
    np.testing.assert_array_equal(turned, np.rot90(image))
    np.testing.assert_array_equal(labels, np.rot90(label))


def test_turned_corners_are_padding_and_ignored():
    image, label = np.full((201, 201, 3), 200, np.uint8), np.full((201, 201), 7, np.uint8)
    turned, labels = rotate(image, label, degrees=45, pad_pixel=(10.5, 20, 30), ignore_label=255)
    assert turned[0, 0].tolist() == [11, 20, 30] and labels[0, 0] == 255
    assert turned[100, 100].tolist() == [200, 200, 200] and labels[100, 100] == 7
    # what remains is the octagon in common: 2 (sqrt 2 - 1) of the square
    assert (labels == 7).mean() == pytest.approx(2 * (2**0.5 - 1), abs=0.01)


def test_rotation_stays_within_its_angle():
    augment = TrainAugment(crop_size=(41, 41), scale_range=(1, 1), flip_probability=0, rotation=10)
    label = np.zeros((41, 41), np.uint8)
    label[20] = 1
    angles = set()
    for seed in range(40):
        _, turned = augment(np.zeros((41, 41, 3), np.uint8), label, np.random.default_rng(seed))
        rows, columns = np.nonzero(turned.numpy() == 1)
        angles.add(round(float(np.degrees(np.arctan(-np.polyfit(columns, rows, 1)[0])))))
    assert min(angles) in (-10, -9, -8) and max(angles) in (8, 9, 10) and len(angles) > 10


def test_blur_has_the_spread_it_says():
    image = np.zeros((61, 61, 3), np.float32)
    image[20:41, 20:41] = 255
    blurred = blur(image, sigma=3.0)[..., 0] / 255
    assert blurred.sum() == pytest.approx(21 * 21, rel=0.01)
    # variances of independent blurs add up: that of a box of 21, and 3 squared
    row = blurred.sum(0) / blurred.sum()
    place = np.arange(61) - 30
    assert (row * place**2).sum() == pytest.approx((21**2 - 1) / 12 + 9, rel=0.05)


def test_blur_comes_with_its_probability_and_not_into_padding():
    options = {"crop_size": (20, 20), "scale_range": (1, 1), "flip_probability": 0, "blur_range": (3, 3)}
    image = np.zeros((9, 9, 3), np.uint8)
    image[4] = 255
    label = np.zeros((9, 9), np.uint8)
    softened = 0
    for seed in range(60):
        crop, _ = TrainAugment(blur_probability=0.5, **options)(image, label, np.random.default_rng(seed))
        assert (crop[:, 9:] == 128).all() and (crop[:, :, 9:] == 128).all()
        softened += int(crop[0, 4, 4]) < 255
    assert 18 <= softened <= 42


def half_and_half():
    label = np.zeros((20, 40), np.uint8)
    label[:, 20:] = 1
    label[:5] = 255
    return label


def test_crops_of_one_class_are_drawn_again():
    label, options = half_and_half(), {"size": (20, 40), "crop": (10, 10), "ignore_label": 255}
    for seed in range(50):
        rng = np.random.default_rng(seed)
        row, column = CropChoice(max_share=0.75, tries=200).draw(label, rng=rng, **options)
        counted = label[row : row + 10, column : column + 10]
        share = (counted == 0).sum() / (counted != 255).sum()
        assert 0.25 < share < 0.75


def test_the_last_try_counts_whatever_it_holds():
    label = np.zeros((20, 40), np.uint8)
    choice, rng = CropChoice(max_share=0.5, tries=3), np.random.default_rng(0)
    offset = choice.draw(label, size=(20, 40), crop=(10, 10), ignore_label=255, rng=rng)
    again = np.random.default_rng(0)
    drawn = [(int(again.integers(11)), int(again.integers(31))) for _ in range(3)]
    assert offset == drawn[-1]


def test_rare_classes_are_centred_on():
    label = np.zeros((50, 60), np.uint8)
    label[30, 40], label[0, 0] = 4, 5
    choice = CropChoice(rare_classes=(4,), rare_probability=1.0)
    options = {"size": (100, 120), "crop": (20, 20), "ignore_label": 255}
    # pixel (30, 40) of a photo enlarged twice lies about (61, 81)
    assert choice.draw(label, rng=np.random.default_rng(0), **options) == (51, 71)
    corner = CropChoice(rare_classes=(5,), rare_probability=1.0)
    assert corner.draw(label, rng=np.random.default_rng(0), **options) == (0, 0)
    absent = CropChoice(rare_classes=(9,), rare_probability=1.0)
    assert len({absent.draw(label, rng=np.random.default_rng(s), **options) for s in range(9)}) > 5


def test_rare_crops_show_the_class_at_every_scale():
    label = np.zeros((64, 64), np.uint8)
    label[5:9, 55:60] = 3
    crops = CropChoice(rare_classes=(3,), rare_probability=1.0)
    augment = TrainAugment(crop_size=(17, 17), crops=crops)
    for seed in range(30):
        _, crop = augment(np.zeros((64, 64, 3), np.uint8), label, np.random.default_rng(seed))
        assert (crop == 3).any()


class TwoPhotos:
    """A green photo of class 1 on the left half, and a red one of class 2 in a spot; class 9 elsewhere."""

    seed = 0
    transform = None

    def __len__(self):
        return 2

    def load(self, index):
        image, label = np.zeros((12, 16, 3), np.uint8), np.full((12, 16), 9, np.uint8)
        mask = label == 0
        mask[(slice(2, 5), slice(3, 9)) if index else (slice(None), slice(8))] = True
        image[mask], label[mask] = ((255, 0, 0), 2) if index else ((0, 255, 0), 1)
        return image, label


def test_copy_paste_lays_whole_regions_over_a_photo():
    pasted = CopyPaste(TwoPhotos(), classes=(2,), probability=1.0)
    seen = set()
    for draw in range(40):
        image, label = pasted[0, draw]
        red = (image[0] == 255).numpy()
        np.testing.assert_array_equal(red, label.numpy() == 2)
        assert red.sum() in (0, 18)
        if red.any():
            rows, columns = np.nonzero(red)
            assert np.ptp(rows) == 2 and np.ptp(columns) == 5
            seen.add((rows[0], columns[0]))
    assert len(seen) > 10


def test_copy_paste_depends_on_seed_index_and_draw_alone():
    first, second = (CopyPaste(TwoPhotos(), classes=(1, 2), probability=0.5) for _ in range(2))
    keys = [(index, draw) for draw in range(6) for index in (0, 1)]
    for key in reversed(keys):
        assert torch.equal(first[key][0], second[key][0])
    labels = {tuple(first[key][1].flatten().tolist()) for key in keys}
    assert len(labels) > 4


def test_copy_paste_of_probability_zero_changes_nothing():
    photos = TwoPhotos()
    photos.transform = TrainAugment(crop_size=(6, 6))
    image, label = photos.load(1)
    expected = photos.transform(image, label, np.random.default_rng([0, 1, 3]))
    got = CopyPaste(photos, classes=(1,), probability=0.0)[1, 3]
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


def test_a_region_larger_than_the_photo_is_cut():
    image, label = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8)
    donor = np.arange(200, dtype=np.uint8).reshape(10, 20)
    donor_image = np.repeat(donor[..., None], 3, axis=2)
    mask = np.ones((10, 20), bool)
    got, labels = paste(image, label, donor_image, donor, mask=mask, rng=np.random.default_rng(0))
    first = int(labels[0, 0])
    expected = first + np.arange(4)[:, None] * 20 + np.arange(5)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(got[..., 1], expected)
    assert label.max() == 0


def test_recipe_becomes_a_transform():
    recipe = AugmentRecipe(
        crop=(9, 11), resize={"min_size": 20, "max_size": 30}, rotate=5, rare=0.5, rare_classes=("c", "a")
    )
    bgr = PixelConfig(mean=(104.0, 117.0, 123.0), std=(1, 1, 1), channels="bgr")
    augment = train_transform(recipe, classes=("a", "b", "c"), pixels=bgr)
    assert augment.crop_size == (9, 11) and augment.rotation == 5
    assert augment.resize == ResizeToRange(min_size=20, max_size=30)
    assert augment.crops == CropChoice(rare_classes=(2, 0), rare_probability=0.5)
    assert augment.pad_pixel == (123.0, 117.0, 104.0)
    assert train_transform(AugmentRecipe(), classes=(), pixels=PixelConfig()) == TrainAugment(
        crop_size=(513, 513)
    )


def test_recipe_names_the_nearest_class():
    with pytest.raises(UserError, match=r"augment\.rare_classes: 'hoarse' is no class; did you mean 'horse'"):
        recipe = AugmentRecipe(rare=0.5, rare_classes=("hoarse",))
        train_transform(recipe, classes=("cat", "horse"), pixels=PixelConfig())
    photos = TwoPhotos()
    assert with_copy_paste(photos, AugmentRecipe(), classes=()) is photos
    pasted = with_copy_paste(photos, AugmentRecipe(copy_paste=1, copy_paste_classes=("b",)), classes="ab")
    assert (pasted.classes, pasted.probability) == ((1,), 1.0)
    with pytest.raises(UserError, match="at least one class"):
        with_copy_paste(photos, AugmentRecipe(copy_paste=1), classes="ab")


@pytest.mark.parametrize(
    "choice, name",
    [
        ({"max_share": 0}, "max_share"),
        ({"tries": 0}, "tries"),
        ({"rare_probability": 0.5}, "rare_classes"),
        ({"rare_probability": 2.0, "rare_classes": (1,)}, "rare_probability"),
    ],
)
def test_wrong_crop_choices_are_named(choice, name):
    with pytest.raises(UserError, match=name):
        CropChoice(**choice)
