"""Resizing photos and label maps in numpy, with aligned corners as the reference does (facts 3.1 and 5.4).

Only a window of the result is computed where only a window is asked for: a training crop of a photo
enlarged twice then costs no more than the crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeplab.errors import UserError

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
    low_y, high_y, weight_y = neighbours(image.shape[0], size[0], rows)
    low_x, high_x, weight_x = neighbours(image.shape[1], size[1], columns)
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
    row = nearest(label.shape[0], size[0], rows)
    column = nearest(label.shape[1], size[1], columns)
    return label.take(row, axis=0).take(column, axis=1)


def resize_plane(plane: Array, size: Size) -> Array:
    """[H, W] to `size` as its kind wants it: integers (labels) nearest, floats (soft masks) bilinearly."""
    if plane.dtype.kind == "f":
        return resize_image(plane[..., None], size)[..., 0]
    return resize_label(plane, size)


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
    """Step 1 of the order: bring every photo to about the same size; see `resize_to_range_size`.

    Raises:
        UserError: no `min_size` (the reference has none without it either), or a size below 1.
    """

    min_size: int
    max_size: int | None = None
    factor: int | None = None
    keep_aspect_ratio: bool = True

    def __post_init__(self) -> None:
        given = {"min_size": self.min_size, "max_size": self.max_size, "factor": self.factor}
        for name, value in given.items():
            optional = value is None and name != "min_size"
            if not optional and (value is None or value < 1):
                raise UserError(
                    f"resize to a range: {name} is {value}",
                    allowed="an integer of at least 1",
                    fix="give min_size along with max_size" if value is None else "",
                )

    def __call__(self, image: Array, label: Array) -> tuple[Array, Array]:
        """(image [H, W, 3], label [H, W]) to (float32 [h, w, 3], label [h, w], nearest or, if float, linear)."""
        size = resize_to_range_size(
            image.shape[0],
            image.shape[1],
            min_size=self.min_size,
            max_size=self.max_size,
            factor=self.factor,
            keep_aspect_ratio=self.keep_aspect_ratio,
        )
        return resize_image(image, size), resize_plane(label, size)


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


def scaled_size(height: int, width: int, *, scale: float) -> Size:
    """int(side * scale) in float32, but never below 1."""
    sides = np.array([height, width], dtype=np.float32) * np.float32(scale)
    return max(1, int(sides[0])), max(1, int(sides[1]))


def neighbours(source: int, target: int, index: Array | None = None) -> tuple[Array, Array, Array]:
    """Where bilinear resizing of one axis looks: value i is first + (second - first) * weight.

    Args:
        source: length before.
        target: length after.
        index: positions after resizing that are wanted; None is all.

    Returns:
        (intp [n] first, intp [n] second, float32 [n] weight of the second, 0..1).
    """
    position = _positions(source, target, index)
    low = np.floor(position).astype(np.intp)
    high = np.minimum(np.ceil(position).astype(np.intp), source - 1)
    # Rounding may carry the last position just past the last pixel.
    low = np.minimum(low, source - 1)
    return low, high, position - low.astype(np.float32)


def nearest(source: int, target: int, index: Array | None = None) -> Array:
    """The nearest neighbours of the same positions, intp [n]: halves away from zero."""
    # In float64, where adding a half is exact: floor(x + 0.5) then rounds halves up and nothing else.
    position = _positions(source, target, index).astype(np.float64)
    return np.minimum(np.floor(position + 0.5).astype(np.intp), source - 1)


def _positions(source: int, target: int, index: Array | None) -> Array:
    step = np.float32((source - 1) / (target - 1)) if target > 1 else np.float32(0)
    return (np.arange(target) if index is None else index).astype(np.float32) * step


def _lerp(planes: Array, low: Array, high: Array, weight: Array, *, axis: int) -> Array:
    first = planes.take(low, axis=axis, mode="clip")
    result = planes.take(high, axis=axis, mode="clip")
    result -= first
    result *= weight
    result += first
    return result
