"""From a photo and its label map to a training crop, in the reference's exact order.

Order (reference fact 5.4): resize to a range, random scale, pad bottom and right, random crop, flip.
Every resize aligns corners (fact 3.1). Only the pixels of the crop are ever computed: the window of the
scaled photo is gathered and interpolated in one go, which equals scaling the whole photo and cropping.
Normalising is no part of this: the model takes pixels 0..255. Training samples, whose pixels are rounded to
bytes, come from a compiled crop of the same values where there is one (`deeplab.data.fast_crop`).

Options beyond the reference are off by default: rotation comes after the resize to a range, colours and
blur after the crop and before its padding, and a crop's place may heed its classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from deeplab.data.colours import apply_gamma, as_bytes, blur, colour_jitter, turn_hue
from deeplab.data.crop_choice import CropChoice
from deeplab.data.fast_crop import can_crop, crop_of_bytes
from deeplab.data.resize import ResizeToRange, resize_image, resize_label, scale_choices, scaled_size
from deeplab.data.rotation import rotate
from deeplab.data.source import IGNORE_LABEL
from deeplab.data.teacher_maps import TaughtPhoto
from deeplab.errors import UserError

GREY_PIXEL = (127.5, 127.5, 127.5)
"""Padding for networks that map pixels to -1..1: MobileNet, Xception, ResNet beta (fact 2.1)."""
IMAGENET_MEAN_PIXEL = (123.15, 115.9, 103.06)
"""RGB padding for networks that subtract the ImageNet mean: ResNet-v1-50 and -101 (fact 2.1)."""
ANYWHERE = CropChoice()
UNCHANGED: dict[str, Any] = {"jitter": None, "hue": 0.0, "gamma": 1.0, "blur_sigma": 0.0}

Array = np.ndarray
Size = tuple[int, int]


def pad_bottom_right(
    image: Array,
    label: Array,
    size: Size,
    *,
    pad_pixel: Sequence[float] = GREY_PIXEL,
    ignore_label: int = IGNORE_LABEL,
) -> tuple[Array, Array]:
    """Pad to at least `size`: (float32 [h, w, 3], label [h, w]); sides that are larger stay."""
    height, width = label.shape
    full = max(height, size[0]), max(width, size[1])
    planes = np.empty((image.shape[2], *full), dtype=np.float32)
    planes[:] = np.asarray(pad_pixel, dtype=np.float32)[:, None, None]
    canvas = np.moveaxis(planes, 0, 2)
    canvas[:height, :width] = image
    labels = np.full(full, ignore_label, dtype=label.dtype)
    labels[:height, :width] = label
    return canvas, labels


def eval_pad(
    image: Array,
    label: Array,
    crop: Size,
    *,
    resize: ResizeToRange | None = None,
    pad_pixel: Sequence[float] = GREY_PIXEL,
    ignore_label: int = IGNORE_LABEL,
) -> tuple[Array, Array]:
    """The reference's evaluation input: (optional) resize to a range, pad bottom and right to `crop`.

    Returns:
        (float32 [*crop, 3] in 0..255, label [*crop]).

    Raises:
        UserError: the image is larger than the crop, which the reference cannot evaluate either.
    """
    if resize is not None:
        image, label = resize(image, label)
    if label.shape[0] > crop[0] or label.shape[1] > crop[1]:
        raise UserError(
            f"the image is {label.shape[0]}x{label.shape[1]} (height x width), larger than the "
            f"evaluation crop {crop[0]}x{crop[1]}",
            fix="use a crop as large as the largest image, or resize to a range",
        )
    return pad_bottom_right(image, label, crop, pad_pixel=pad_pixel, ignore_label=ignore_label)


def crop_of_scaled(
    image: Array,
    label: Array,
    *,
    scale: float,
    crop_size: Size,
    offset: Size = (0, 0),
    flip: bool = False,
    jitter: tuple[float, float, float] | None = None,
    hue: float = 0.0,
    gamma: float = 1.0,
    blur_sigma: float = 0.0,
    pad_pixel: Sequence[float] = GREY_PIXEL,
    ignore_label: int = IGNORE_LABEL,
) -> tuple[Array, Array]:
    """Steps 3 to 7 with every choice made: scale, pad, crop, flip, without computing more than the crop.

    Args:
        image: [H, W, 3], 0..255.
        label: [H, W] integer.
        scale: factor of both sides.
        crop_size: (height, width) of the result.
        offset: (row, column) of the crop in the scaled and padded photo.
        flip: mirror left and right, padding included.
        jitter: (brightness, contrast, saturation) factors of `colour_jitter`, applied before padding.
        hue: degrees of `turn_hue`, after it.
        gamma: of `apply_gamma`, after that.
        blur_sigma: standard deviation of `blur`, pixels of the crop; 0 is sharp. Also before padding.
        pad_pixel: RGB of the padding.
        ignore_label: label of the padding.

    Returns:
        (float32 [*crop_size, 3] in 0..255, label [*crop_size] in the label's dtype).
    """
    size = scaled_size(*label.shape, scale=scale)
    rows = np.arange(offset[0], min(offset[0] + crop_size[0], size[0]))
    columns = np.arange(offset[1], min(offset[1] + crop_size[1], size[1]))
    window = resize_image(image, size, rows=rows, columns=columns)
    if jitter is not None:
        window = colour_jitter(window, brightness=jitter[0], contrast=jitter[1], saturation=jitter[2])
    if hue:
        window = turn_hue(window, degrees=hue)
    if gamma != 1:
        window = apply_gamma(window, gamma=gamma)
    if blur_sigma:
        window = blur(window, sigma=blur_sigma)
    labels = resize_label(label, size, rows=rows, columns=columns)
    if labels.shape != crop_size:
        window, labels = pad_bottom_right(
            window, labels, crop_size, pad_pixel=pad_pixel, ignore_label=ignore_label
        )
    return (window[:, ::-1], labels[:, ::-1]) if flip else (window, labels)


def to_tensors(image: Array, label: Array, *, rounded: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """(image [H, W, channels], label [H, W] 0..255) to (uint8 or float32 [channels, H, W], uint8 [H, W]).

    The pixels stay channels-last in memory, and are those of `image` itself where it allows that. Floats of 8 bits are
    `rounded` to the nearest integer, halves up: at most half a grey level from the reference, which trains on
    the unrounded values, for a quarter of the memory. What is not rounded becomes float32.
    """
    pixels = as_bytes(image) if rounded else image.astype(np.float32, copy=False)
    pixels = np.require(pixels, requirements=["C", "W"])
    labels = np.require(label, dtype=np.uint8, requirements=["C", "W"])
    return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(labels)


@dataclass(frozen=True, kw_only=True)
class TrainAugment:
    """Random scale, crop and flip of one training sample; all choices come from the generator passed in.

    Attributes:
        crop_size: (height, width) of every sample, pixels.
        scale_range: smallest and largest factor.
        scale_step: spacing of the factors; 0 draws uniformly.
        flip_probability: 0..1.
        resize: optional resize to a range, before all else.
        rotation: largest angle in degrees, either way, drawn uniformly; 0 turns nothing.
        jitter: largest relative change (brightness, contrast, saturation), each 0..1; 0.4 draws a factor
            from 0.6..1.4. None, the reference's setting, leaves colours alone.
        hue: largest angle in degrees, either way, by which colours are turned; 0 turns none.
        gamma: smallest and largest exponent, drawn so that one and its inverse are as likely; None is 1.
        blur_probability: share of the samples that are blurred.
        blur_range: smallest and largest standard deviation of the blur, pixels.
        crops: where crops are cut.
        pad_pixel: of the padding by channel, the backbone's mean pixel.
        ignore_label: label of the padding.

    Raises:
        UserError: a setting is out of its range.
    """

    crop_size: Size
    scale_range: tuple[float, float] = (0.5, 2.0)
    scale_step: float = 0.25
    flip_probability: float = 0.5
    resize: ResizeToRange | None = None
    rotation: float = 0.0
    jitter: tuple[float, float, float] | None = None
    hue: float = 0.0
    gamma: tuple[float, float] | None = None
    blur_probability: float = 0.0
    blur_range: tuple[float, float] = (0.1, 2.0)
    crops: CropChoice = ANYWHERE
    pad_pixel: tuple[float, ...] = GREY_PIXEL
    ignore_label: int = IGNORE_LABEL

    def __post_init__(self) -> None:
        low, high = self.scale_range
        _check(min(self.crop_size) >= 1, "crop_size", self.crop_size, "two integers of at least 1")
        _check(0 < low <= high, "scale_range", self.scale_range, "0 < smallest <= largest")
        _check(self.scale_step >= 0, "scale_step", self.scale_step, "0 (uniform) or more")
        _check(0 <= self.flip_probability <= 1, "flip_probability", self.flip_probability, "0..1")
        _check(0 <= self.rotation <= 180, "rotation", self.rotation, "0..180 degrees")
        in_range = self.jitter is None or all(0 <= amount <= 1 for amount in self.jitter)
        _check(in_range, "jitter", self.jitter, "None or three numbers 0..1")
        _check(0 <= self.hue <= 180, "hue", self.hue, "0..180 degrees")
        in_order = self.gamma is None or 0 < self.gamma[0] <= self.gamma[1]
        _check(in_order, "gamma", self.gamma, "None, or 0 < smallest <= largest")
        _check(0 <= self.blur_probability <= 1, "blur_probability", self.blur_probability, "0..1")
        in_order = 0 < self.blur_range[0] <= self.blur_range[1]
        _check(in_order, "blur_range", self.blur_range, "0 < smallest <= largest")

    def __call__(
        self, image: Array, label: Array, rng: np.random.Generator, taught: TaughtPhoto | None = None
    ) -> tuple[torch.Tensor, ...]:
        """(uint8 [H, W, 3], uint8 [H, W]) to (uint8 [3, *crop_size], uint8 [*crop_size]); of bands as many.

        Pixels are rounded where they are bytes, see `to_tensors`. Of a photo with a teacher's map the third is what
        `TaughtPhoto.cut` gives of the same crop; a rotation would leave it where it was.
        """
        of_bytes = image.dtype == np.uint8
        if self.resize is not None:
            image, label = self.resize(image, label)
        if self.rotation:
            image, label = self._turned(image, label, rng, rounded=of_bytes)
        scale = self._draw_scale(rng)
        size = scaled_size(*label.shape, scale=scale)
        place: dict[str, Any] = {
            "scale": scale,
            "crop_size": self.crop_size,
            "offset": self.crops.draw(
                label, size=size, crop=self.crop_size, ignore_label=self.ignore_label, rng=rng
            ),
            "flip": bool(rng.random() < self.flip_probability),
            "pad_pixel": self.pad_pixel,
            "ignore_label": self.ignore_label,
        }
        changes = self._draw_changes(rng)
        if changes == UNCHANGED and can_crop(image, label):
            crop = crop_of_bytes(image, label, **place)
        else:
            crop = crop_of_scaled(image, label, **changes, **place)
        sample = to_tensors(*crop, rounded=of_bytes)
        if taught is None:
            return sample
        return *sample, taught.cut(crop[1], size=size, offset=place["offset"], flip=place["flip"])

    @cached_property
    def _scales(self) -> Array:
        return scale_choices(*self.scale_range, step=self.scale_step)

    def _turned(
        self, image: Array, label: Array, rng: np.random.Generator, *, rounded: bool
    ) -> tuple[Array, Array]:
        return rotate(
            image,
            label,
            degrees=float(rng.uniform(-self.rotation, self.rotation)),
            pad_pixel=self.pad_pixel,
            ignore_label=self.ignore_label,
            rounded=rounded,
        )

    def _draw_scale(self, rng: np.random.Generator) -> float:
        if self._scales.size == 0:
            return float(rng.uniform(*self.scale_range))
        return float(self._scales[rng.integers(self._scales.size)])

    def _draw_changes(self, rng: np.random.Generator) -> dict[str, Any]:
        """What happens to the pixels alone; what is off draws nothing."""
        changes = dict(UNCHANGED)
        if self.jitter is not None:
            changes["jitter"] = tuple(float(rng.uniform(1 - j, 1 + j)) for j in self.jitter)
        if self.blur_probability and rng.random() < self.blur_probability:
            changes["blur_sigma"] = float(rng.uniform(*self.blur_range))
        if self.hue:
            changes["hue"] = float(rng.uniform(-self.hue, self.hue))
        if self.gamma is not None:
            changes["gamma"] = float(np.exp(rng.uniform(*np.log(self.gamma))))
        return changes


def _check(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise UserError(f"augmentation setting {name} is {value!r}", allowed=allowed)
