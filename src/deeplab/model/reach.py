"""How far a network sees: the pixels around a position that its logits depend on, by arithmetic on its layers.

The network runs once without data (on the meta device), and every operation says which places of its input a place
of its output reads. A convolution of kernel k, rate r and stride s reads (k - 1) * r positions beyond the first, and
its own positions lie s times as far apart. Branches that meet read the farther of both. Means over whole maps
(`deeplab.layers.view`) are counted, not followed: they read everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deeplab.config import DeepLabConfig
from deeplab.errors import UserError
from deeplab.layers.view import Side, View, seeing
from deeplab.model.network import DeepLab

# a multiple of every stride, beyond every pooling window
SIDE = 4096
# no multiple of any
EVEN = 66
Sizes = Sequence[int]


class Reach(NamedTuple):
    """What a part of an image has to be cut out with, so that its logits are those of the whole image.

    Attributes:
        pixels: beyond a logit's own pixel, in any direction, that it depends on.
        grid: windows begin at its multiples, and their sides leave the remainder by it that the image's sides leave.
        means: over whole maps that the network takes, one after another.
    """

    pixels: int
    grid: int
    means: int


class Field(NamedTuple):
    """Position i of a map reads pixels i * step + low .. i * step + high."""

    step: Fraction
    low: Fraction
    high: Fraction

    def read(self, first: Fraction | int, last: Fraction | int, stride: Fraction | int) -> Field:
        """Of a map whose position i reads this one's i * stride + first .. i * stride + last."""
        return Field(self.step * stride, self.low + first * self.step, self.high + last * self.step)


Fields = tuple[Field, Field]


def reach_of(config: DeepLabConfig, output_stride: int) -> Reach:
    """The reach of every network of an architecture at an output stride.

    Raises:
        UserError: the network reads other places in images of other sizes, or does something that is not known here.
    """
    # in which torch hands over whole layers, not what they are made of
    with torch.inference_mode(False), torch.no_grad():
        return _followed(config.model_dump_json(), output_stride)


@lru_cache(maxsize=16)
def _followed(described: str, output_stride: int) -> Reach:
    config = DeepLabConfig.model_validate_json(described)
    if config.image_pyramid != (1.0,):
        raise _unknown("it runs images at other sizes than their own")
    with torch.device("meta"):
        model = DeepLab(config).eval()
        model.output_stride = output_stride
        # with aligned corners, maps of sides k * stride + 1 lie on each other's positions
        side = SIDE + (config.resize == "align_corners")
        image = torch.zeros(1, config.backbone.in_channels, side, side)
        small = model.low_resolution_logits(torch.zeros(1, config.backbone.in_channels, EVEN, EVEN))
    if small["semantic"].shape[-1] != -(-EVEN // model.logits_stride) or not model.backbone.on_grid:
        raise _unknown("its maps do not lie on the image's grid at every size")
    whole = View(Side(side, 0, side, (0, side)), Side(side, 0, side, (0, side)))
    with seeing(whole), _Follow(image, config.resize == "align_corners") as seen:
        logits = model.low_resolution_logits(image)["semantic"]
    if seen.means != whole.asked:
        raise _unknown("it takes means over whole maps where they cannot be replaced")
    fields = seen.of(logits)
    if fields is None:
        raise _unknown("its logits depend on means alone")
    farthest = max(max(-field.low, field.high) for field in fields)
    return Reach(math.ceil(farthest), seen.coarsest, whole.asked)


def _unknown(why: str) -> UserError:
    return UserError(
        f"how far this network sees cannot be told: {why}",
        fix="blended windows (--seams blend), which need not know it",
    )


class _Follow(TorchDispatchMode):
    """Keeps the fields of every tensor that is made from an image; a tensor without any reads everything alike."""

    def __init__(self, image: torch.Tensor, corners: bool) -> None:
        super().__init__()
        self._corners = corners
        self.means, self.coarsest = 0, 1
        point = Field(Fraction(1), Fraction(0), Fraction(0))
        # tensors are kept, as another may get the number of one that is gone
        self._known: dict[int, tuple[torch.Tensor, Fields]] = {id(image): (image, (point, point))}

    def of(self, tensor: torch.Tensor) -> Fields | None:
        """The fields of its rows and columns."""
        found = self._known.get(id(tensor))
        return None if found is None else found[1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [each for each in _tensors(args) if id(each) in self._known]
        if not given:
            return result
        name = func.overloadpacket.__name__
        if name == "mean":
            self.means += 1
            return result
        made = _tensors([result])
        if name in RULES:
            fields = self._apply(RULES[name], args, made[0])
        else:
            if any(each.shape[-2:] != made[0].shape[-2:] for each in given) or name in SIDEWAYS:
                raise _unknown(f"it computes {name}")
            fields = self._joined([self._known[id(each)][1] for each in given])
        self.coarsest = max(self.coarsest, *(math.ceil(field.step) for field in fields))
        self._known.update({id(each): (each, fields) for each in made})
        return result

    def _apply(self, rule: Rule, args: Sequence[Any], made: torch.Tensor) -> Fields:
        before = self._known[id(args[0])][1]
        rows, columns = (
            field.read(*rule(args, axis, made, self._corners)) for axis, field in enumerate(before)
        )
        return rows, columns

    def _joined(self, given: list[Fields]) -> Fields:
        sides = []
        for fields in zip(*given, strict=True):
            if len({field.step for field in fields}) > 1:
                raise _unknown("it joins maps of different strides")
            lowest, highest = min(field.low for field in fields), max(field.high for field in fields)
            sides.append(Field(fields[0].step, lowest, highest))
        return sides[0], sides[1]


# what output position 0 along an axis (0 for rows, 1 for columns) reads first and last, and the stride
Rule = Callable[
    [Sequence[Any], int, torch.Tensor, bool], tuple[Fraction | int, Fraction | int, Fraction | int]
]


def _window(
    kernel: int, stride: Sizes | int, padding: Sizes | int, rate: Sizes | int, axis: int
) -> tuple[int, int, int]:
    first = -_along(padding, axis)
    return first, first + (kernel - 1) * _along(rate, axis), _along(stride, axis)


def _convolution(args: Sequence[Any], axis: int, *_: Any) -> tuple[int, int, int]:
    _, weight, _, stride, padding, rate = args[:6]
    return _window(weight.shape[2 + axis], stride, padding, rate, axis)


def _pooling(args: Sequence[Any], axis: int, *_: Any) -> tuple[int, int, int]:
    _, kernel, stride, padding, rate = (*args, 0, 1)[:5] if len(args) < 5 else args[:5]
    return _window(_along(kernel, axis), stride or kernel, padding, rate, axis)


def _mean_pooling(args: Sequence[Any], axis: int, *_: Any) -> tuple[int, int, int]:
    kernel, stride, padding = (args[1], *args[2:4], 0)[:3]
    return _window(_along(kernel, axis), stride or kernel, padding, 1, axis)


def _padding(args: Sequence[Any], axis: int, *_: Any) -> tuple[int, int, int]:
    # pairs from the last axis on
    pads = (*args[1], 0, 0, 0, 0)
    before = pads[2] if axis == 0 else pads[0]
    return -before, -before, 1


def _slicing(args: Sequence[Any], axis: int, *_: Any) -> tuple[int, int, int]:
    _, dim, start, _, step = (*args, *(0, None, None, 1)[len(args) - 1 :])[:5]
    along = dim % args[0].dim() - 2 == axis
    return ((start or 0), (start or 0), step) if along else (0, 0, 1)


def _resizing(args: Sequence[Any], axis: int, made: torch.Tensor, corners: bool) -> tuple[Fraction, ...]:
    source, target = (each.shape[2 + axis] - corners for each in (args[0], made))
    stride = Fraction(source, target)
    if stride.numerator > 1 and stride.denominator > 1:
        raise _unknown("it pools over windows, and enlarges what they leave to the map's size")
    shift = Fraction(0) if corners else (stride - 1) / 2
    # from one of its two neighbours; with aligned corners steps meet positions
    apart = 1 - Fraction(1, stride.denominator) if corners else Fraction(1)
    return shift - apart, shift + apart, stride


def _choosing(args: Sequence[Any], axis: int, made: torch.Tensor, corners: bool) -> tuple[Any, ...]:
    along = args[1] % args[0].dim() - 2 == axis
    return _resizing(args, axis, made, corners) if along else (0, 0, 1)


def _turning(args: Sequence[Any], *_: Any) -> tuple[int, int, int]:
    if any(dim % args[0].dim() > 1 for dim in args[1]):
        raise _unknown("it mirrors maps")
    return 0, 0, 1


def _along(value: Sizes | int, axis: int) -> int:
    if isinstance(value, int):
        return value
    return value[axis] if len(value) > 1 else value[0]


def _tensors(values: Sequence[Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


RULES: dict[str, Any] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _pooling,
    "avg_pool2d": _mean_pooling,
    "constant_pad_nd": _padding,
    "slice": _slicing,
    "upsample_bilinear2d": _resizing,
    "index_select": _choosing,
    "flip": _turning,
}
# as large as what they read, and not position by position
SIDEWAYS = {"cumsum", "roll", "softmax", "_softmax", "native_group_norm"}
