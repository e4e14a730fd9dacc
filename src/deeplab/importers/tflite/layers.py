"""The layers that a segmentation network of TensorFlow Lite is made of, whatever operations a file writes them in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deeplab.config import Padding, PixelConfig, ResizeRule
from deeplab.errors import UserError
from deeplab.importers.tflite.file import Quantisation, Tensor
from deeplab.layers.activations import Activation

Pair = tuple[int, int]
Bounds = tuple[float, float]

UNBOUNDED: Bounds = (-math.inf, math.inf)
# what an activation clips to
CLIPS: dict[Activation | None, Bounds] = {None: UNBOUNDED, "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}


@dataclass(frozen=True, eq=False)
class Layer:
    """What all layers have, by number: its operation, the tensors it reads and the one it makes.

    raw: the sources as its operation reads them, perhaps on another 8-bit grid.
    """

    op: int
    sources: tuple[int, ...]
    output: int
    raw: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Conv(Layer):
    """Convolution with what is computed behind it, channel by channel.

    Attributes:
        kernel: float32 [out, in / groups, height, width]; bias: float32 [out], zeros if the file has none.
        scales: of 8-bit weights, float64 [1] or [out]; None if weights are not 8-bit.
        stored: tensor numbers of weight and bias, then of the constants that were joined to them.
        paddings: rules that pad as the file does, the likeliest first; none at stride 1, where all do the same.
        clip: least and largest result; grid: least and largest that the file can store, and its step.
    """

    kernel: np.ndarray
    bias: np.ndarray
    scales: np.ndarray | None
    stored: tuple[int, ...]
    stride: int
    rate: Pair
    depthwise: bool
    paddings: tuple[Padding, ...]
    clip: Bounds
    grid: tuple[float, float, float]

    @property
    def window(self) -> Pair:
        """Height and width of the kernel."""
        return self.kernel.shape[2], self.kernel.shape[3]

    def acts_as(self, activation: Activation | None) -> bool:
        """Whether the file would hold the same values if this had `activation`.

        Without an activation an 8-bit file may still clip at 0 and 6, where its grid ends.
        """
        least, largest, step = self.grid
        ours, theirs = (
            [min(max(bound, least), largest) for bound in bounds] for bounds in (self.clip, CLIPS[activation])
        )
        return all(a == b or abs(a - b) <= step / 2 for a, b in zip(ours, theirs, strict=True))


@dataclass(frozen=True, eq=False)
class Add(Layer):
    """Sum of two maps."""


@dataclass(frozen=True, eq=False)
class Concat(Layer):
    """Maps side by side along channels, in the order of `sources`."""


@dataclass(frozen=True, eq=False)
class Pool(Layer):
    """Mean over windows of (height, width), no padding."""

    window: Pair
    stride: Pair


@dataclass(frozen=True, eq=False)
class Resize(Layer):
    """Bilinear resize to another size; rule None spreads one value over the map."""

    rule: ResizeRule | None


@dataclass(frozen=True, eq=False)
class Tail(Layer):
    """What only the end of a network may have: labels or probabilities from logits, a cast, another layout."""

    kind: str


@dataclass(frozen=True)
class Network:
    """The layers in running order, from tensor `source` to the tensors `outputs`.

    Attributes:
        tensors: the file's, and those of maps that this module's order of operations has and the file's has not.
        maps: height, width and channels of the maps whose tensors are not [1, height, width, channels].
        grids: the 8-bit grids that a tensor's values went through, its layer's own first.
        pixels: how stored input values follow from pixels 0..255, None if the file does not say.
        structure: constants that are sizes, axes, paddings and scalings of the input.
        reordered: where the layers compute as the file does, but round elsewhere in 8 bits.
    """

    tensors: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    source: int
    outputs: tuple[int, ...]
    maps: dict[int, tuple[int, int, int]]
    grids: dict[int, tuple[Quantisation, ...]]
    pixels: PixelConfig | None
    structure: frozenset[int]
    reordered: tuple[str, ...]

    def tensor(self, number: int) -> Tensor:
        return self.tensors[number]

    def size(self, number: int) -> Pair:
        """Height and width of a map."""
        return map_size(self.maps, self.tensors, number)[:2]

    def channels(self, number: int) -> int:
        """Of a map."""
        return map_size(self.maps, self.tensors, number)[2]

    def name(self, number: int) -> str:
        """Of a tensor; converters join the names of all that was fused, with semicolons."""
        return self.tensors[number].name.split(";")[0] or f"number {number}"


def map_size(
    maps: dict[int, tuple[int, int, int]], tensors: list[Tensor] | tuple[Tensor, ...], number: int
) -> tuple[int, int, int]:
    """Height, width and channels of a tensor: what `maps` says, else what [1, height, width, channels] does.

    Raises:
        UserError: it has another shape.
    """
    if number in maps:
        return maps[number]
    tensor = tensors[number]
    if len(tensor.shape) != 4 or tensor.shape[0] != 1:
        raise UserError(
            f"tensor {tensor.name} has shape {tensor.shape}; one map of height, width and channels was expected"
        )
    return tensor.shape[1:]
