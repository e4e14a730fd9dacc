"""TensorFlow Lite operations as the layers a segmentation network is made of.

Converters write one layer in several ways. This module undoes that: an atrous convolution may be a space-to-
batch, convolution, batch-to-space triple; explicit padding a PAD before a VALID convolution; an activation
its own operation; re-quantisation and resizes to the same size are nothing at all. Whatever is left and not
known is an error that names the operation: nothing is skipped in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from deeplab.config import Padding, PixelConfig, ResizeRule
from deeplab.errors import UserError
from deeplab.importers.tflite.file import Graph, Op, Tensor
from deeplab.importers.tflite.input import InputScaling
from deeplab.layers.activations import Activation

Pair = tuple[int, int]

SAME, VALID = 0, 1
FUSED: dict[int, Activation | None] = {0: None, 1: "relu", 3: "relu6"}
RULES: dict[tuple[int, int], ResizeRule] = {(1, 0): "align_corners", (0, 1): "half_pixel", (0, 0): "legacy"}


@dataclass(frozen=True)
class Layer:
    """What all layers have: the operation it came from, and the tensors it reads and makes, by number."""

    op: int
    sources: tuple[int, ...]
    output: int


@dataclass(frozen=True)
class Conv(Layer):
    """Convolution; `weight` and `bias` are tensor numbers, bias -1 if there is none.

    padding None: stride 1, where both rules do the same.
    """

    weight: int
    bias: int
    kernel: Pair
    stride: int
    rate: Pair
    depthwise: bool
    padding: Padding | None
    activation: Activation | None


@dataclass(frozen=True)
class Add(Layer):
    """Sum of two maps."""


@dataclass(frozen=True)
class Concat(Layer):
    """Maps side by side along channels, in the order of `sources`."""


@dataclass(frozen=True)
class Pool(Layer):
    """Mean over windows of (height, width), no padding."""

    window: Pair
    stride: Pair


@dataclass(frozen=True)
class Resize(Layer):
    """Bilinear resize to another size."""

    rule: ResizeRule


@dataclass(frozen=True)
class Tail(Layer):
    """What only the end of a network may have: labels or probabilities from logits, a cast, a reshape."""

    kind: str


@dataclass(frozen=True)
class Network:
    """The layers in running order, from tensor `source` to tensor `output`.

    pixels: how stored input values follow from pixels 0..255, None if the file does not say. structure:
    constants that are sizes, axes and paddings.
    """

    graph: Graph
    layers: tuple[Layer, ...]
    source: int
    output: int
    pixels: PixelConfig | None
    structure: frozenset[int]

    def tensor(self, number: int) -> Tensor:
        return self.graph.tensors[number]

    def size(self, number: int) -> Pair:
        """Height and width of a map [1, height, width, channels]."""
        return _size(self.tensor(number))


def network_of(graph: Graph) -> Network:
    """Simplify `graph`.

    Raises:
        UserError: an operation or an option that no layer here stands for; it is named.
    """
    return _Simplifier(graph).network()


@dataclass(frozen=True)
class _Spread:
    # a space-to-batch (block above 1) or PAD (block 1) in front of a convolution
    source: int
    block: Pair
    before: Pair
    after: Pair


class _Simplifier:
    def __init__(self, graph: Graph) -> None:
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            counts = f"{len(graph.inputs)} and {len(graph.outputs)}"
            raise UserError(f"a DeepLab file has one input and one output; this one has {counts}")
        self.graph = graph
        self.source = graph.inputs[0]
        self.layers: dict[int, Layer] = {}
        self.alias: dict[int, int] = {}
        self.spread: dict[int, _Spread] = {}
        self.unfinished: set[int] = set()
        self.structure: set[int] = set()
        self.readers = Counter(number for op in graph.ops for number in op.inputs)
        self.scaling = InputScaling.stored(graph.tensors[self.source])
        self.handlers: dict[str, Callable[[Op], None]] = {
            "CONV_2D": self._conv,
            "DEPTHWISE_CONV_2D": self._conv,
            "SPACE_TO_BATCH_ND": self._space_to_batch,
            "BATCH_TO_SPACE_ND": self._batch_to_space,
            "PAD": self._pad,
            "RELU": self._activation,
            "RELU6": self._activation,
            "ADD": self._arithmetic,
            "SUB": self._arithmetic,
            "MUL": self._arithmetic,
            "DIV": self._arithmetic,
            "CONCATENATION": self._concat,
            "AVERAGE_POOL_2D": self._pool,
            "MEAN": self._mean,
            "RESIZE_BILINEAR": self._resize,
            "QUANTIZE": self._nothing,
            "DEQUANTIZE": self._nothing,
            "ARG_MAX": self._tail,
            "SOFTMAX": self._tail,
            "CAST": self._tail,
            "RESHAPE": self._tail,
            "SQUEEZE": self._tail,
        }

    def network(self) -> Network:
        for op in self.graph.ops:
            if op.kind not in self.handlers:
                raise _refusal(op, f"is not understood; known operations: {', '.join(sorted(self.handlers))}")
            self.handlers[op.kind](op)
        if self.unfinished:
            raise UserError("a SPACE_TO_BATCH_ND convolution is never followed by its BATCH_TO_SPACE_ND")
        return Network(
            graph=self.graph,
            layers=tuple(self.layers.values()),
            source=self.source,
            output=self._resolve(self.graph.outputs[0]),
            pixels=self.scaling.pixels(),
            structure=frozenset(self.structure),
        )

    def _resolve(self, number: int) -> int:
        return self.alias.get(number, number)

    def _constant(self, op: Op, position: int) -> np.ndarray:
        number = self._resolve(op.inputs[position]) if position < len(op.inputs) else -1
        data = self.graph.tensors[number].data if number >= 0 else None
        if data is None:
            raise _refusal(op, f"needs a constant as its input {position}, not a computed one")
        self.structure.add(number)
        return data

    def _put(self, layer: Layer) -> None:
        self.layers[layer.output] = layer

    def _nothing(self, op: Op) -> None:
        self.alias[op.outputs[0]] = self._resolve(op.inputs[0])

    def _conv(self, op: Op) -> None:
        depthwise = op.kind == "DEPTHWISE_CONV_2D"
        if op.options.get("DepthMultiplier", 1) != 1:
            raise _refusal(op, f"has depth multiplier {op.options['DepthMultiplier']}; known: 1")
        weight = self._resolve(op.inputs[1])
        shape = self.graph.tensors[weight].shape
        if self.graph.tensors[weight].data is None or len(shape) != 4:
            raise _refusal(op, "has computed weights, or weights that are not 4-dimensional")
        stride = (op.options["StrideH"], op.options["StrideW"])
        if stride[0] != stride[1]:
            raise _refusal(op, f"has strides {stride}; known: equal ones")
        source = self._resolve(op.inputs[0])
        spread = self.spread.get(source)
        conv = Conv(
            op=op.number,
            sources=(source,),
            output=op.outputs[0],
            weight=weight,
            bias=self._resolve(op.inputs[2]) if len(op.inputs) > 2 else -1,
            kernel=(shape[1], shape[2]),
            stride=stride[0],
            rate=(op.options["DilationHFactor"], op.options["DilationWFactor"]),
            depthwise=depthwise,
            padding=None if stride[0] == 1 else "same",
            activation=_fused(op),
        )
        self._put(self._spread_conv(op, conv, spread) if spread else self._plain_conv(op, conv))

    def _plain_conv(self, op: Op, conv: Conv) -> Conv:
        if op.options["Padding"] != SAME and conv.kernel != (1, 1):
            raise _refusal(
                op, f"is a {conv.kernel} convolution without padding; known: SAME, or PAD before it"
            )
        return conv

    def _spread_conv(self, op: Op, conv: Conv, spread: _Spread) -> Conv:
        if op.options["Padding"] != VALID:
            raise _refusal(op, "pads twice: SAME padding after PAD or SPACE_TO_BATCH_ND")
        atrous = spread.block != (1, 1)
        if atrous and (conv.rate != (1, 1) or conv.stride != 1):
            raise _refusal(op, "has a stride or dilation inside SPACE_TO_BATCH_ND")
        rate = spread.block if atrous else conv.rate
        reach = tuple((side - 1) * step for side, step in zip(conv.kernel, rate, strict=True))
        before = tuple(total // 2 for total in reach)
        after = tuple(total - total // 2 for total in reach)
        # space-to-batch may pad more behind, to fill whole blocks; the crop takes it off again
        enough = spread.after == after or (
            atrous and all(s >= a for s, a in zip(spread.after, after, strict=True))
        )
        if spread.before != before or not enough:
            raise _refusal(
                op, f"is padded by {spread.before} and {spread.after}; known: {before} and {after}"
            )
        if atrous:
            self.unfinished.add(conv.output)
        padding = None if conv.stride == 1 else "symmetric"
        return replace(conv, sources=(spread.source,), rate=rate, padding=padding)

    def _space_to_batch(self, op: Op) -> None:
        block, pads = self._constant(op, 1), self._constant(op, 2)
        if block.shape != (2,) or pads.shape != (2, 2):
            raise _refusal(op, f"has blocks of shape {block.shape}; known: height and width")
        self._put_spread(op, (int(block[0]), int(block[1])), pads)

    def _pad(self, op: Op) -> None:
        pads = self._constant(op, 1)
        if pads.shape != (4, 2) or pads[[0, 3]].any():
            raise _refusal(op, f"pads by {pads.tolist()}; known: height and width only")
        self._put_spread(op, (1, 1), pads[1:3])

    def _put_spread(self, op: Op, block: Pair, pads: np.ndarray) -> None:
        (top, bottom), (left, right) = pads.tolist()
        self.spread[op.outputs[0]] = _Spread(self._resolve(op.inputs[0]), block, (top, left), (bottom, right))

    def _batch_to_space(self, op: Op) -> None:
        block, crops = self._constant(op, 1), self._constant(op, 2)
        source = self._resolve(op.inputs[0])
        conv = self.layers.get(source)
        if source not in self.unfinished or not isinstance(conv, Conv) or tuple(block.tolist()) != conv.rate:
            raise _refusal(op, "does not end a convolution that a SPACE_TO_BATCH_ND of the same block began")
        output = op.outputs[0]
        if crops[:, 0].any() or self._size(output) != self._size(conv.sources[0]):
            raise _refusal(op, f"crops by {crops.tolist()}; known: back to the size before")
        self.unfinished.remove(source)
        self._rename(conv, output=output)

    def _activation(self, op: Op) -> None:
        conv = self.layers.get(self._resolve(op.inputs[0]))
        alone = self.readers[op.inputs[0]] == 1
        if not isinstance(conv, Conv) or conv.activation is not None or not alone:
            raise _refusal(op, "does not follow a linear convolution that nothing else reads")
        self._rename(conv, output=op.outputs[0], activation="relu6" if op.kind == "RELU6" else "relu")

    def _rename(self, conv: Conv, **changes: object) -> None:
        del self.layers[conv.output]
        self._put(replace(conv, **changes))

    def _arithmetic(self, op: Op) -> None:
        if _fused(op):
            raise _refusal(op, "has a fused activation; known: none")
        sources = [self._resolve(number) for number in op.inputs]
        constants = [number for number in sources if self.graph.tensors[number].data is not None]
        if not constants and op.kind == "ADD":
            self._put(Add(op.number, tuple(sources), op.outputs[0]))
        elif len(constants) == 1 and self.source in sources:
            self._scale_input(op, sources.index(constants[0]))
        else:
            raise _refusal(
                op, "is arithmetic with a constant in the middle of the network; known: on the input"
            )

    def _scale_input(self, op: Op, position: int) -> None:
        if position == 0 and op.kind in ("SUB", "DIV"):
            raise _refusal(op, "has the constant on the left")
        self._constant(op, position)
        value = self.graph.tensors[self._resolve(op.inputs[position])].real().astype(np.float64).reshape(-1)
        if value.size not in (1, 3):
            raise _refusal(op, f"scales the input by {value.size} constants; known: 1 or 3")
        self.scaling = self.scaling.then(op.kind, value)
        self.alias[op.outputs[0]] = self.source

    def _concat(self, op: Op) -> None:
        rank = len(self.graph.tensors[op.outputs[0]].shape)
        if _fused(op) or op.options["Axis"] not in (-1, rank - 1):
            raise _refusal(op, "concatenates along another axis than channels, or activates")
        self._put(Concat(op.number, tuple(self._resolve(number) for number in op.inputs), op.outputs[0]))

    def _pool(self, op: Op) -> None:
        window = (op.options["FilterHeight"], op.options["FilterWidth"])
        if _fused(op) or op.options["Padding"] != VALID:
            raise _refusal(op, "pads or activates; known: plain mean over windows")
        stride = (op.options["StrideH"], op.options["StrideW"])
        self._put(Pool(op.number, (self._resolve(op.inputs[0]),), op.outputs[0], window, stride))

    def _mean(self, op: Op) -> None:
        axes = {int(axis) % 4 for axis in self._constant(op, 1).reshape(-1)}
        source, output = self._resolve(op.inputs[0]), op.outputs[0]
        if axes != {1, 2} or len(self.graph.tensors[output].shape) != 4:
            raise _refusal(
                op, f"takes the mean over axes {sorted(axes)}; known: height and width, kept as 1x1"
            )
        self._put(Pool(op.number, (source,), output, self._size(source), (1, 1)))

    def _resize(self, op: Op) -> None:
        self._constant(op, 1)
        source, output = self._resolve(op.inputs[0]), op.outputs[0]
        flags = (op.options["AlignCorners"], op.options["HalfPixelCenters"])
        if flags not in RULES:
            raise _refusal(op, "both aligns corners and has half-pixel centres")
        if self._size(source) == self._size(output):
            self._nothing(op)
        else:
            self._put(Resize(op.number, (source,), output, RULES[flags]))

    def _tail(self, op: Op) -> None:
        for position in range(1, len(op.inputs)):
            self._constant(op, position)
        self._put(Tail(op.number, (self._resolve(op.inputs[0]),), op.outputs[0], op.kind))

    def _size(self, number: int) -> Pair:
        return _size(self.graph.tensors[number])


def _size(tensor: Tensor) -> Pair:
    if len(tensor.shape) != 4:
        raise UserError(f"tensor {tensor.name} has shape {tensor.shape}; a map of 4 dimensions was expected")
    return tensor.shape[1], tensor.shape[2]


def _fused(op: Op) -> Activation | None:
    code = op.options["FusedActivationFunction"]
    if code not in FUSED:
        raise _refusal(op, f"clips by fused activation number {code}; known: none, relu, relu6")
    return FUSED[code]


def _refusal(op: Op, why: str) -> UserError:
    return UserError(f"operation {op.number} ({op.kind}) {why}")
