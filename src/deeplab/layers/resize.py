"""Resizing by an explicit rule; a wrong rule costs points silently.

Reference fact 3.1: every resize of the TensorFlow code aligns corners. torchvision, mmsegmentation and
others use half-pixel centres, and some mobile files use TensorFlow 1's legacy rule src = i * in / out.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F

from deeplab.config import ResizeRule
from deeplab.layers.view import View, current_view


def scale_dimension(size: int, scale: float) -> int:
    """int((size - 1) * scale + 1): sizes of the form k * stride + 1 stay on the grid (fact 3.1).

    Sizes that an exported program leaves open are scaled in whole numbers, as floating-point arithmetic would fix
    them at the example's. The two agree at every size for scales such as 0.5, 0.75 and 1/16; for 0.7 and its like
    the floats round some whole results down (63 for 64 at 91), as the reference does, and the program does not.
    """
    if isinstance(size, int):
        return int((size - 1.0) * scale + 1.0)
    numerator, denominator = _ratio(scale)
    return ((size - 1) * numerator + denominator) // denominator


def scale_sides(sides: Sequence[int], scale: float, rule: ResizeRule) -> tuple[int, ...]:
    """Sides of an image scaled by `rule`: `scale_dimension` aligns corners, 'half_pixel' rounds down."""
    if rule != "half_pixel":
        return tuple(scale_dimension(side, scale) for side in sides)
    numerator, denominator = _ratio(scale)
    return tuple(
        max(1, int(side * scale))
        if isinstance(side, int)
        else torch.sym_max(1, side * numerator // denominator)
        for side in sides
    )


def ceil_divide(size: int, stride: int) -> int:
    """The size over the stride, rounded up, in a form that every exporter follows."""
    return (size + stride - 1) // stride


def _ratio(scale: float) -> tuple[int, int]:
    return Fraction(scale).limit_denominator(4096).as_integer_ratio()


def resize_bilinear(
    x: torch.Tensor, size: Sequence[int], rule: ResizeRule, *, part: tuple[int, int] | None = None
) -> torch.Tensor:
    """Resize [N, C, h, w] to [N, C, *size] bilinearly, without antialiasing, in x's dtype.

    `part` says how many first rows and columns of x are the map, where the rest only repeats its last ones.
    """
    if part is not None:
        rows = _lerp(x, size[0], -2, source=part[0], rule=rule)
        return _lerp(rows, size[1], -1, source=part[1], rule=rule)
    sides = tuple(x.shape[-2:])
    # asking whether sizes without a value yet are equal would fix the answer in an exported program
    if all(isinstance(side, int) for side in (*sides, *size)) and sides == tuple(size):
        return x
    if all(isinstance(side, int) for side in sides) and sides == (1, 1):
        return x.expand(-1, -1, *size)
    view = current_view()
    if view is not None:
        return _lerp_in(_lerp_in(x, size[0], -2, view, rule), size[1], -1, view, rule)
    if rule == "legacy":
        rows = _lerp(x, size[0], -2, source=sides[0], rule=rule)
        return _lerp(rows, size[1], -1, source=sides[1], rule=rule)
    return F.interpolate(x, list(size), mode="bilinear", align_corners=rule == "align_corners")


def resize_nearest(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Nearest neighbour with aligned corners, halves away from zero, for [..., h, w] of any dtype.

    PyTorch has no such mode: the index is round(i * (in - 1) / (out - 1)) in float32 (fact 3.1).
    """
    for axis, length in ((-2, size[0]), (-1, size[1])):
        x = x.index_select(x.dim() + axis, _nearest_index(x.shape[axis], length).to(x.device))
    return x


def _nearest_index(source: int, target: int) -> torch.Tensor:
    step = torch.tensor((source - 1) / (target - 1) if target > 1 else 0.0, dtype=torch.float32)
    # in float32 the sum rounds 0.49999997 + 0.5 up to 1; the reference's roundf gives 0
    position = (torch.arange(target, dtype=torch.float32) * step).double()
    return torch.floor(position + 0.5).long().clamp(max=source - 1)


def _lerp(x: torch.Tensor, target: int, axis: int, *, source: int, rule: ResizeRule) -> torch.Tensor:
    return _lerp_at(x, _position(torch.arange(target, device=x.device), source, target, rule), axis, source)


def _lerp_in(x: torch.Tensor, target: int, axis: int, view: View, rule: ResizeRule) -> torch.Tensor:
    """As `_lerp`, where x and the result are windows of maps of the whole image."""
    source = x.shape[axis]
    if source == target:
        return x
    side, coarse, fine = view.places(x.dim() + axis, source, target)
    index = torch.arange(target, device=x.device) + side.start // fine
    whole = ceil_divide(side.whole, coarse), ceil_divide(side.whole, fine)
    position = _position(index, *whole, rule) - side.start // coarse
    return _lerp_at(x, position.clamp(0, source - 1), axis, source)


def _lerp_at(x: torch.Tensor, position: torch.Tensor, axis: int, source: int) -> torch.Tensor:
    low = position.floor().long().clamp(max=source - 1)
    high = (low + 1).clamp(max=source - 1)
    weight = (position - low).to(x.dtype)
    if axis == -2:
        weight = weight[:, None]
    dim = x.dim() + axis
    first = x.index_select(dim, low)
    return first + (x.index_select(dim, high) - first) * weight


def _position(index: torch.Tensor, source: int, target: int, rule: ResizeRule) -> torch.Tensor:
    """Where in the source each of the target's indices lies, float32."""
    if rule == "align_corners":
        return index * (source - 1) / torch.sym_max(target - 1, 1)
    if rule == "half_pixel":
        return ((index + 0.5) * source / target - 0.5).clamp(min=0)
    return index.float() * (source / target)
