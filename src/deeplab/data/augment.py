"""From a photo and its label map to a training crop, in the reference's exact order.

Order (reference fact 5.4): resize to a range, random scale, pad bottom and right, random crop, flip.
Every resize aligns corners (fact 3.1). Only the pixels of the crop are ever computed: the window of the
scaled photo is gathered and interpolated in one go, which equals scaling the whole photo and cropping.
Normalising is no part of this: the model takes pixels 0..255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from deeplab.errors import UserError

IGNORE_LABEL = 255
GREY_PIXEL = (127.5, 127.5, 127.5)
"""Padding for networks that map pixels to -1..1: MobileNet, Xception, ResNet beta (fact 2.1)."""
IMAGENET_MEAN_PIXEL = (123.15, 115.9, 103.06)
"""RGB padding for networks that subtract the ImageNet mean: ResNet-v1-50 and -101 (fact 2.1)."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in the grey value, ITU-R BT.601."""

Array = np.ndarray
Size = tuple[int, int]


def resize_image(
    image: Array, size: Size, *, rows: Array | None = None, columns: Array | None = None
) -> Array:
    """Resize bilinearly with aligned corners; compute only a window of the result if asked.

    Args:
        image: [H, W, C], any real dtype.
        size: (height, width) of the whole resized image.
        rows: indices of the resized image's rows to compute; None computes all.
        columns: the same for columns.

    Returns:
        float32 [rows, columns, C], in the range of the input.
    """
    low_y, high_y, weight_y = _neighbours(image.shape[0], size[0], rows)
    low_x, high_x, weight_x = _neighbours(image.shape[1], size[1], columns)
    top, left = low_y.min(), low_x.min()
    source = image[top : high_y.max() + 1, left : high_x.max() + 1]
    # Channels first: gathering single floats is several times faster than gathering triples.
    planes = np.ascontiguousarray(np.moveaxis(source, 2, 0)).astype(np.float32, copy=False)
    planes = _lerp(planes, low_x - left, high_x - left, weight_x, axis=2)
    planes = _lerp(planes, low_y - top, high_y - top, weight_y[:, None], axis=1)
    return np.moveaxis(planes, 0, 2)


def resize_label(
    label: Array, size: Size, *, rows: Array | None = None, columns: Array | None = None
) -> Array:
    """Nearest neighbour with aligned corners, halves away from zero: [H, W] to [rows, columns], same dtype.

    Arguments as `resize_image`.
    """
    row = _nearest(label.shape[0], size[0], rows)
    column = _nearest(label.shape[1], size[1], columns)
    return label.take(row, axis=0).take(column, axis=1)


def resize_to_range_size(
    height: int,
    width: int,
    *,
    min_size: int,
    max_size: int | None = None,
    factor: int | None = None,
    keep_aspect_ratio: bool = True,
) -> Size:
    """The size at which the shorter side is `min_size`, unless the longer one would exceed `max_size`.

    With `factor` both sides are rounded up to k * factor + 1. All arithmetic is float32, as in the
    reference (fact 5.4), so that truncation falls the same way.
    """
    sides = np.array([height, width], dtype=np.float32)
    new = np.floor(sides * (np.float32(min_size) / sides.min())).astype(int)
    if max_size is not None:
        limit = np.float32(max_size - (max_size - 1) % factor if factor else max_size)
        if new.max() > limit:
            new = np.floor(sides * (limit / sides.max())).astype(int)
    if factor:
        new += (factor - (new - 1) % factor) % factor
    if not keep_aspect_ratio:
        new[:] = new.max()
    return int(new[0]), int(new[1])


@dataclass(frozen=True, kw_only=True)
class ResizeToRange:
    """Step 1 of the order: bring every photo to about the same size; see `resize_to_range_size`."""

    min_size: int
    max_size: int | None = None
    factor: int | None = None
    keep_aspect_ratio: bool = True

    def __call__(self, image: Array, label: Array) -> tuple[Array, Array]:
        """(image [H, W, 3], label [H, W]) to (float32 [h, w, 3], label [h, w])."""
        size = resize_to_range_size(
            image.shape[0],
            image.shape[1],
            min_size=self.min_size,
            max_size=self.max_size,
            factor=self.factor,
            keep_aspect_ratio=self.keep_aspect_ratio,
        )
        return resize_image(image, size), resize_label(label, size)


def scale_choices(minimum: float, maximum: float, *, step: float) -> Array:
    """The float32 factors that random scaling chooses from; empty if `step` is 0 (then uniform).

    There are int((maximum - minimum) / step + 1), equally spaced from end to end, so the real spacing is
    not `step` where that does not divide the range (fact 5.4).
    """
    if minimum == maximum:
        return np.array([minimum], dtype=np.float32)
    if step == 0:
        return np.array([], dtype=np.float32)
    return np.linspace(minimum, maximum, int((maximum - minimum) / step + 1)).astype(np.float32)


def scaled_size(height: int, width: int, scale: float) -> Size:
    """int(side * scale) in float32, but never below 1."""
    sides = np.array([height, width], dtype=np.float32) * np.float32(scale)
    return max(1, int(sides[0])), max(1, int(sides[1]))


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
    planes = np.empty((3, *full), dtype=np.float32)
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
            f"the image is {label.shape[0]}x{label.shape[1]} (height x width), larger than the evaluation "
            f"crop {crop[0]}x{crop[1]}; fix: use a crop as large as the largest image, or resize to a range"
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
        pad_pixel: RGB of the padding.
        ignore_label: label of the padding.

    Returns:
        (float32 [*crop_size, 3] in 0..255, label [*crop_size] in the label's dtype).
    """
    size = scaled_size(*label.shape, scale)
    rows = np.arange(offset[0], min(offset[0] + crop_size[0], size[0]))
    columns = np.arange(offset[1], min(offset[1] + crop_size[1], size[1]))
    window = resize_image(image, size, rows=rows, columns=columns)
    if jitter is not None:
        window = colour_jitter(window, brightness=jitter[0], contrast=jitter[1], saturation=jitter[2])
    labels = resize_label(label, size, rows=rows, columns=columns)
    if labels.shape != crop_size:
        window, labels = pad_bottom_right(
            window, labels, crop_size, pad_pixel=pad_pixel, ignore_label=ignore_label
        )
    return (window[:, ::-1], labels[:, ::-1]) if flip else (window, labels)


def colour_jitter(image: Array, *, brightness: float, contrast: float, saturation: float) -> Array:
    """Multiply by `brightness`, then stretch about the mean grey, then about each pixel's grey.

    Args:
        image: float32 [H, W, 3] RGB, 0..255.
        brightness: factor; 1 changes nothing, likewise below.
        contrast: factor of the distance from the image's mean grey value.
        saturation: factor of the distance from the pixel's own grey value.

    Returns:
        float32 [H, W, 3], clipped to 0..255 after each step.
    """
    bright = np.clip(image * np.float32(brightness), 0, 255)
    mean = np.float32((bright @ LUMA).mean())
    contrasted = np.clip(mean + (bright - mean) * np.float32(contrast), 0, 255)
    grey = (contrasted @ LUMA)[..., None]
    return np.clip(grey + (contrasted - grey) * np.float32(saturation), 0, 255)


def to_tensors(image: Array, label: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """(image [H, W, 3] 0..255, label [H, W] 0..255) to (uint8 [3, H, W], uint8 [H, W]).

    Float pixels are rounded to the nearest integer, halves up: at most half a grey level from the
    reference, which trains on the unrounded values, for a quarter of the memory.
    """
    if image.dtype != np.uint8:
        image = (image + np.float32(0.5)).astype(np.uint8)
    planes = np.array(np.moveaxis(image, 2, 0), order="C")
    return torch.from_numpy(planes), torch.from_numpy(np.array(label, dtype=np.uint8, order="C"))


@dataclass(frozen=True, kw_only=True)
class TrainAugment:
    """Random scale, crop and flip of one training sample; all choices come from the generator passed in.

    Attributes:
        crop_size: (height, width) of every sample, pixels.
        scale_range: smallest and largest factor.
        scale_step: spacing of the factors; 0 draws uniformly.
        flip_probability: 0..1.
        resize: optional resize to a range, before all else.
        jitter: largest relative change (brightness, contrast, saturation), each 0..1; 0.4 draws a factor
            from 0.6..1.4. None, the reference's setting, leaves colours alone.
        pad_pixel: RGB of the padding, the backbone's mean pixel.
        ignore_label: label of the padding.

    Raises:
        UserError: a setting is out of its range.
    """

    crop_size: Size
    scale_range: tuple[float, float] = (0.5, 2.0)
    scale_step: float = 0.25
    flip_probability: float = 0.5
    resize: ResizeToRange | None = None
    jitter: tuple[float, float, float] | None = None
    pad_pixel: tuple[float, float, float] = GREY_PIXEL
    ignore_label: int = IGNORE_LABEL

    def __post_init__(self) -> None:
        low, high = self.scale_range
        _check(min(self.crop_size) >= 1, "crop_size", self.crop_size, "two integers of at least 1")
        _check(0 < low <= high, "scale_range", self.scale_range, "0 < smallest <= largest")
        _check(self.scale_step >= 0, "scale_step", self.scale_step, "0 (uniform) or more")
        _check(0 <= self.flip_probability <= 1, "flip_probability", self.flip_probability, "0..1")
        in_range = self.jitter is None or all(0 <= amount <= 1 for amount in self.jitter)
        _check(in_range, "jitter", self.jitter, "None or three numbers 0..1")

    def __call__(
        self, image: Array, label: Array, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(uint8 [H, W, 3], uint8 [H, W]) to (uint8 [3, *crop_size], uint8 [*crop_size]).

        Pixels are rounded, see `to_tensors`.
        """
        if self.resize is not None:
            image, label = self.resize(image, label)
        scale = self._draw_scale(rng)
        crop, labels = crop_of_scaled(
            image,
            label,
            scale=scale,
            crop_size=self.crop_size,
            offset=self._draw_offset(scaled_size(*label.shape, scale), rng),
            flip=bool(rng.random() < self.flip_probability),
            jitter=self._draw_jitter(rng),
            pad_pixel=self.pad_pixel,
            ignore_label=self.ignore_label,
        )
        return to_tensors(crop, labels)

    @cached_property
    def _scales(self) -> Array:
        return scale_choices(*self.scale_range, step=self.scale_step)

    def _draw_scale(self, rng: np.random.Generator) -> float:
        if self._scales.size == 0:
            return float(rng.uniform(*self.scale_range))
        return float(self._scales[rng.integers(self._scales.size)])

    def _draw_offset(self, size: Size, rng: np.random.Generator) -> Size:
        room = [max(side - crop, 0) for side, crop in zip(size, self.crop_size, strict=True)]
        return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))

    def _draw_jitter(self, rng: np.random.Generator) -> tuple[float, float, float] | None:
        if self.jitter is None:
            return None
        brightness, contrast, saturation = (float(rng.uniform(1 - j, 1 + j)) for j in self.jitter)
        return brightness, contrast, saturation


def _positions(source: int, target: int, index: Array | None) -> Array:
    step = np.float32((source - 1) / (target - 1)) if target > 1 else np.float32(0)
    return (np.arange(target) if index is None else index).astype(np.float32) * step


def _neighbours(source: int, target: int, index: Array | None) -> tuple[Array, Array, Array]:
    position = _positions(source, target, index)
    low = np.floor(position).astype(np.intp)
    high = np.minimum(np.ceil(position).astype(np.intp), source - 1)
    # Rounding may carry the last position just past the last pixel.
    low = np.minimum(low, source - 1)
    return low, high, position - low.astype(np.float32)


def _nearest(source: int, target: int, index: Array | None) -> Array:
    # In float64, where adding a half is exact: floor(x + 0.5) then rounds halves up and nothing else.
    position = _positions(source, target, index).astype(np.float64)
    return np.minimum(np.floor(position + 0.5).astype(np.intp), source - 1)


def _lerp(planes: Array, low: Array, high: Array, weight: Array, *, axis: int) -> Array:
    first = planes.take(low, axis=axis, mode="clip")
    result = planes.take(high, axis=axis, mode="clip")
    result -= first
    result *= weight
    result += first
    return result


def _check(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise UserError(f"augmentation setting {name} is {value!r}; allowed: {allowed}")
