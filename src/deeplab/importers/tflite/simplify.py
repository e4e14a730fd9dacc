"""TensorFlow Lite operations as `layers`.

Converters write one layer in many ways; what counts is what is computed. This module undoes, wherever a file
computes the same:

- atrous convolutions as dilation, or as SPACE_TO_BATCH_ND, convolution, BATCH_TO_SPACE_ND;
- padding by a convolution's own rule, or by PAD or PADV2 before it;
- activations fused, as operations (RELU, RELU6, MINIMUM, MAXIMUM), or left to the bounds of an 8-bit grid; before
  or behind a concatenation or a broadcast;
- biases and factors per channel as ADD, SUB, MUL, DIV behind a convolution;
- 1x1 convolutions as FULLY_CONNECTED, before or behind a broadcast; depthwise ones as CONV_2D of many groups;
- means over the whole map as AVERAGE_POOL_2D or as MEAN over one axis or two, axes kept or dropped;
- one value spread over a map by RESIZE_BILINEAR, RESIZE_NEAREST_NEIGHBOR, TILE, BROADCAST_TO, a CONCATENATION of
  copies, ADD of zeros or MUL by ones;
- concatenations of concatenations, or of one map;
- what changes no value: RESHAPE, SQUEEZE, EXPAND_DIMS, QUANTIZE, DEQUANTIZE, resizes to the same size.

Whatever is left and not known is an error that names the operation: nothing is skipped in silence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from deeplab.config import Padding, ResizeRule
from deeplab.errors import UserError
from deeplab.importers.tflite.file import Graph, Op, Quantisation, Tensor
from deeplab.importers.tflite.input import InputScaling
from deeplab.importers.tflite.layers import (
    CLIPS,
    UNBOUNDED,
    Add,
    Bounds,
    Concat,
    Conv,
    Layer,
    Network,
    Pair,
    Pool,
    Resize,
    Tail,
    map_size,
)
from deeplab.layers.activations import Activation
from deeplab.layers.conv import same_padding

Pads = tuple[Pair, Pair]

SAME = 0
ZEROS: Pads = ((0, 0), (0, 0))
FUSED: dict[int, Activation | None] = {0: None, 1: "relu", 3: "relu6"}
RULES: dict[tuple[int, int], ResizeRule] = {(1, 0): "align_corners", (0, 1): "half_pixel", (0, 0): "legacy"}


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
    raw: int
    block: Pair
    pads: Pads


class _Simplifier:
    def __init__(self, graph: Graph) -> None:
        if len(graph.inputs) != 1 or not graph.outputs:
            counts = f"{len(graph.inputs)} and {len(graph.outputs)}"
            raise UserError(f"a DeepLab file has one input, and outputs; this one has {counts}")
        self.graph = graph
        self.tensors = list(graph.tensors)
        self.source = graph.inputs[0]
        self.layers: dict[int, Layer] = {}
        self.alias: dict[int, int] = {}
        self.maps: dict[int, tuple[int, int, int]] = {}
        self.grids: dict[int, tuple[Quantisation, ...]] = {}
        self.spread: dict[int, _Spread] = {}
        self.unfinished: set[int] = set()
        self.structure: set[int] = set()
        self.reordered: list[str] = []
        self.readers = Counter([*(number for op in graph.ops for number in set(op.inputs)), *graph.outputs])
        # tensors whose values other operations read too, under another number
        self.shared: set[int] = set()
        self.channels_first: set[int] = set()
        self.scaling = InputScaling.stored(graph.tensors[self.source])
        self.handlers: dict[str, Callable[[Op], None]] = {
            "CONV_2D": self._conv,
            "DEPTHWISE_CONV_2D": self._conv,
            "FULLY_CONNECTED": self._conv,
            "SPACE_TO_BATCH_ND": self._space_to_batch,
            "BATCH_TO_SPACE_ND": self._batch_to_space,
            "PAD": self._pad,
            "PADV2": self._pad,
            "RELU": self._activation,
            "RELU6": self._activation,
            "MINIMUM": self._bound,
            "MAXIMUM": self._bound,
            "ADD": self._arithmetic,
            "SUB": self._arithmetic,
            "MUL": self._arithmetic,
            "DIV": self._arithmetic,
            "CONCATENATION": self._concat,
            "AVERAGE_POOL_2D": self._pool,
            "MEAN": self._mean,
            "RESIZE_BILINEAR": self._resize,
            "RESIZE_NEAREST_NEIGHBOR": self._resize,
            "TILE": self._broadcast,
            "BROADCAST_TO": self._broadcast,
            "QUANTIZE": self._nothing,
            "DEQUANTIZE": self._nothing,
            "CAST": self._cast,
            "RESHAPE": self._reshape,
            "SQUEEZE": self._reshape,
            "EXPAND_DIMS": self._reshape,
            "TRANSPOSE": self._transpose,
            "ARG_MAX": self._arg_max,
            "SOFTMAX": self._tail,
            "LOGISTIC": self._tail,
        }

    def network(self) -> Network:
        for op in self.graph.ops:
            if op.kind not in self.handlers:
                raise _refusal(op, f"is not understood; known operations: {', '.join(sorted(self.handlers))}")
            self.handlers[op.kind](op)
        if self.unfinished:
            raise UserError("a SPACE_TO_BATCH_ND convolution is never followed by its BATCH_TO_SPACE_ND")
        return Network(
            tensors=tuple(self.tensors),
            layers=tuple(self.layers.values()),
            source=self.source,
            outputs=tuple(self._resolve(number) for number in self.graph.outputs),
            maps=self.maps,
            grids=self.grids,
            pixels=self.scaling.pixels(),
            structure=frozenset(self.structure),
            reordered=tuple(self.reordered),
        )

    def _resolve(self, number: int) -> int:
        return self.alias.get(number, number)

    def _constant(self, op: Op, position: int) -> np.ndarray:
        number = self._resolve(op.inputs[position]) if position < len(op.inputs) else -1
        data = self.tensors[number].data if number >= 0 else None
        if data is None:
            raise _refusal(op, f"needs a constant as its input {position}, not a computed one")
        self.structure.add(number)
        return data

    def _put(self, layer: Layer) -> None:
        self.layers[layer.output] = layer
        self._trail(layer.output, ())

    def _trail(self, number: int, before: tuple[Quantisation, ...]) -> None:
        grid = self.tensors[number].quantisation
        new = grid is not None and not (before and _same_grid(grid, before[-1]))
        self.grids[number] = (*before, grid) if grid is not None and new else before

    def _nothing(self, op: Op) -> None:
        source, output = op.inputs[0], op.outputs[0]
        self.alias[output] = self._resolve(source)
        if self.readers[source] > 1 or source in self.shared:
            self.shared.add(output)
        if source not in self.grids:
            self._trail(source, ())
        self._trail(output, self.grids[source])

    def _behind(self, op: Op, number: int) -> Iterator[Conv]:
        # the convolutions whose results, spread or side by side, `number` holds, if only `op` reads it
        layer = self.layers.get(self._resolve(number))
        alone = self.readers[number] == 1 and number not in self.shared
        if alone and isinstance(layer, Conv):
            yield layer
        elif alone and (isinstance(layer, Concat) or (isinstance(layer, Resize) and layer.rule is None)):
            for source in layer.raw:
                yield from self._behind(op, source)
        else:
            raise _refusal(op, "does not follow a convolution that nothing else reads")

    def _conv(self, op: Op) -> None:
        spread = self.spread.get(self._resolve(op.inputs[0]))
        source = spread.source if spread else self._resolve(op.inputs[0])
        kernel, depthwise = self._kernel(op, self._map(source)[2])
        weight, bias = self._resolve(op.inputs[1]), self._resolve(op.inputs[2]) if len(op.inputs) > 2 else -1
        stored = self.tensors[weight]
        stride = (op.options.get("StrideH", 1), op.options.get("StrideW", 1))
        if stride[0] != stride[1]:
            raise _refusal(op, f"has strides {stride}; known: equal ones")
        output = op.outputs[0]
        conv = Conv(
            op=op.number,
            sources=(source,),
            output=output,
            raw=(spread.raw if spread else op.inputs[0],),
            kernel=kernel,
            bias=self.tensors[bias].real() if bias >= 0 else np.zeros(len(kernel), np.float32),
            scales=stored.quantisation.scale
            if stored.quantisation is not None and stored.dtype in ("int8", "uint8")
            else None,
            stored=tuple(number for number in (weight, bias) if number >= 0),
            stride=stride[0],
            rate=(op.options.get("DilationHFactor", 1), op.options.get("DilationWFactor", 1)),
            depthwise=depthwise,
            paddings=(),
            clip=CLIPS[_fused(op)],
            grid=_limits(self.tensors[output]),
        )
        if len(self.tensors[output].shape) != 4:
            self.maps[output] = (*self._map(source)[:2], len(kernel))
        if spread and spread.block != (1, 1):
            self._put(self._spread_conv(op, conv, spread))
            self.unfinished.add(output)
        else:
            self._put_conv(op, replace(conv, paddings=self._paddings(op, conv, spread)))

    def _put_conv(self, op: Op, conv: Conv) -> None:
        spread = self.layers.get(conv.sources[0])
        if not isinstance(spread, Resize) or spread.rule or conv.window != (1, 1) or conv.stride > 1:
            self._put(conv)
            return
        # one value first convolved, then spread: the same, and what our model does
        output = self._new_map(self.tensors[conv.output], (1, 1, len(conv.kernel)))
        if self.readers[conv.raw[0]] == 1 and conv.raw[0] not in self.shared:
            del self.layers[spread.output]
        self._put(replace(conv, sources=spread.sources, raw=spread.raw, output=output))
        self._put(Resize(op.number, (output,), conv.output, (output,), None))

    def _new_map(self, like: Tensor, size: tuple[int, int, int]) -> int:
        self.tensors.append(replace(like, shape=(1, *size)))
        self.readers[len(self.tensors) - 1] = 1
        return len(self.tensors) - 1

    def _kernel(self, op: Op, channels: int) -> tuple[np.ndarray, bool]:
        tensor = self.tensors[self._resolve(op.inputs[1])]
        rank = 2 if op.kind == "FULLY_CONNECTED" else 4
        if tensor.data is None or len(tensor.shape) != rank:
            raise _refusal(op, f"has computed weights, or weights that are not {rank}-dimensional")
        kernel = tensor.real()
        if rank == 2:
            kernel = kernel[:, None, None]
        depthwise = op.kind == "DEPTHWISE_CONV_2D" or (kernel.shape[3] == 1 and channels > 1)
        # [out, height, width, in], or depthwise [1, height, width, out]
        kernel = kernel.transpose((3, 0, 1, 2) if op.kind == "DEPTHWISE_CONV_2D" else (0, 3, 1, 2))
        if (len(kernel) if depthwise else kernel.shape[1]) != channels:
            raise _refusal(op, f"has weights of shape {tensor.shape} on a map of {channels} channels")
        return np.ascontiguousarray(kernel), depthwise

    def _paddings(self, op: Op, conv: Conv, spread: _Spread | None) -> tuple[Padding, ...]:
        own = op.options.get("Padding") == SAME
        if own and spread:
            raise _refusal(op, "pads twice: SAME padding after PAD or SPACE_TO_BATCH_ND")
        tall, wide = ((side - 1) * rate + 1 for side, rate in zip(conv.window, conv.rate, strict=True))
        height, width, _ = self._map(conv.sources[0])
        rules: dict[Padding, Pads] = {
            "same": (same_padding(height, tall, conv.stride), same_padding(width, wide, conv.stride)),
            "symmetric": (((tall - 1) // 2, tall // 2), ((wide - 1) // 2, wide // 2)),
        }
        written = rules["same"] if own else spread.pads if spread else ZEROS
        likely: tuple[Padding, ...] = ("same", "symmetric") if own else ("symmetric", "same")
        fitting = tuple(rule for rule in likely if rules[rule] == written)
        if not fitting and spread is None:
            raise _refusal(
                op, f"is a {conv.window} convolution without padding; known: SAME, or PAD before it"
            )
        if not fitting:
            raise _refusal(op, f"is padded by {written}; known: {rules['symmetric']} and {rules['same']}")
        return fitting if conv.stride > 1 else ()

    def _spread_conv(self, op: Op, conv: Conv, spread: _Spread) -> Conv:
        if op.options["Padding"] == SAME:
            raise _refusal(op, "pads twice: SAME padding after PAD or SPACE_TO_BATCH_ND")
        if conv.rate != (1, 1) or conv.stride != 1:
            raise _refusal(op, "has a stride or dilation inside SPACE_TO_BATCH_ND")
        for (before, after), side, rate in zip(spread.pads, conv.window, spread.block, strict=True):
            reach = (side - 1) * rate
            # more behind fills whole blocks; the crop takes it off again
            if before != reach // 2 or after < reach - reach // 2:
                known = (reach // 2, reach - reach // 2)
                raise _refusal(op, f"is padded by {(before, after)} along an axis; known: {known}")
        return replace(conv, rate=spread.block)

    def _space_to_batch(self, op: Op) -> None:
        block, pads = self._constant(op, 1), self._constant(op, 2)
        if block.shape != (2,) or pads.shape != (2, 2):
            raise _refusal(op, f"has blocks of shape {block.shape}; known: height and width")
        self._put_spread(op, (int(block[0]), int(block[1])), pads)

    def _pad(self, op: Op) -> None:
        pads = self._constant(op, 1)
        if pads.shape != (4, 2) or pads[[0, 3]].any():
            raise _refusal(op, f"pads by {pads.tolist()}; known: height and width only")
        if len(op.inputs) > 2:
            self._constant(op, 2)
            if self.tensors[self._resolve(op.inputs[2])].real().any():
                raise _refusal(op, "pads with another value than 0")
        self._put_spread(op, (1, 1), pads[1:3])

    def _put_spread(self, op: Op, block: Pair, pads: np.ndarray) -> None:
        before = self.spread.get(self._resolve(op.inputs[0]))
        if before and before.block != (1, 1):
            raise _refusal(op, "follows another SPACE_TO_BATCH_ND")
        source, raw = (before.source, before.raw) if before else (self._resolve(op.inputs[0]), op.inputs[0])
        known = np.array(before.pads if before else ZEROS)
        (top, bottom), (left, right) = (known + pads).tolist()
        self.spread[op.outputs[0]] = _Spread(source, raw, block, ((top, bottom), (left, right)))

    def _batch_to_space(self, op: Op) -> None:
        block, crops = self._constant(op, 1), self._constant(op, 2)
        source, output = self._resolve(op.inputs[0]), op.outputs[0]
        conv = self.layers.get(source)
        if source not in self.unfinished or not isinstance(conv, Conv) or tuple(block.tolist()) != conv.rate:
            raise _refusal(op, "does not end a convolution that a SPACE_TO_BATCH_ND of the same block began")
        if crops[:, 0].any() or self._map(output)[:2] != self._map(conv.sources[0])[:2]:
            raise _refusal(op, f"crops by {crops.tolist()}; known: back to the size before")
        self.unfinished.remove(source)
        del self.layers[source]
        self._put(replace(conv, output=output))

    def _activation(self, op: Op) -> None:
        self._clip(op, op.inputs[0], CLIPS["relu6" if op.kind == "RELU6" else "relu"])
        self._nothing(op)

    def _bound(self, op: Op) -> None:
        position = next((i for i, number in enumerate(op.inputs) if self._stored(number)), 1)
        values = np.unique(self._constant_values(op, position))
        if len(values) != 1:
            raise _refusal(op, "bounds a map by several values; known: one number")
        bounds = (-math.inf, float(values[0])) if op.kind == "MINIMUM" else (float(values[0]), math.inf)
        self._clip(op, op.inputs[1 - position], bounds)
        self._nothing(replace(op, inputs=(op.inputs[1 - position],)))

    def _clip(self, op: Op, number: int, bounds: Bounds) -> None:
        convs = list(self._behind(op, number))
        for conv in convs:
            least, largest = (min(max(bound, bounds[0]), bounds[1]) for bound in conv.clip)
            self.layers[conv.output] = replace(conv, clip=(least, largest))
        if len(convs) > 1 and 0 < bounds[1] < math.inf:
            self._moves(op)

    def _moves(self, op: Op) -> None:
        self.reordered.append(f"operation {op.number} ({op.kind}) is computed at another place")

    def _stored(self, number: int) -> bool:
        return self.tensors[self._resolve(number)].data is not None

    def _constant_values(self, op: Op, position: int) -> np.ndarray:
        self._constant(op, position)
        return self.tensors[self._resolve(op.inputs[position])].real().astype(np.float64)

    def _arithmetic(self, op: Op) -> None:
        sources = tuple(self._resolve(number) for number in op.inputs)
        constants = [position for position, number in enumerate(op.inputs) if self._stored(number)]
        if not constants and op.kind == "ADD" and not _fused(op):
            self._put(Add(op.number, sources, op.outputs[0], op.inputs))
        elif len(constants) != 1:
            raise _refusal(op, "is arithmetic of two maps; known: a sum without activation")
        elif constants[0] == 0 and op.kind in ("SUB", "DIV"):
            raise _refusal(op, "has the constant on the left")
        elif self.source in sources:
            self._scale_input(op, constants[0])
        else:
            self._arithmetic_behind(op, constants[0])

    def _scale_input(self, op: Op, position: int) -> None:
        if _fused(op):
            raise _refusal(op, "has a fused activation; known: none")
        value = self._constant_values(op, position).reshape(-1)
        if value.size not in (1, 3):
            raise _refusal(op, f"scales the input by {value.size} constants; known: 1 or 3")
        self.scaling = self.scaling.then(op.kind, value)
        self._nothing(replace(op, inputs=(op.inputs[1 - position],)))

    def _arithmetic_behind(self, op: Op, position: int) -> None:
        number = op.inputs[1 - position]
        values = self._constant_values(op, position)
        height, width, channels = self._map(self._resolve(number))
        neutral = 1.0 if op.kind in ("MUL", "DIV") else 0.0
        if (values == neutral).all():
            self._broadcast(replace(op, inputs=(number, op.inputs[position])))
        elif values.size not in (1, channels) or (values.size > 1 and values.shape[-1] != channels):
            raise _refusal(op, f"has a constant of shape {values.shape} on a map {height}x{width}x{channels}")
        else:
            self._join_constant(op, number, np.broadcast_to(values.reshape(-1), channels))
            self._nothing(replace(op, inputs=(number,)))
        if _fused(op):
            self._clip(op, number, CLIPS[_fused(op)])

    def _join_constant(self, op: Op, number: int, values: np.ndarray) -> None:
        conv, *others = self._behind(op, number)
        if others or conv.clip != UNBOUNDED:
            raise _refusal(
                op, "is arithmetic behind an activation or a concatenation; known: on convolutions"
            )
        kernel, bias = conv.kernel.astype(np.float64), conv.bias.astype(np.float64)
        if op.kind in ("MUL", "DIV"):
            factor = values if op.kind == "MUL" else 1 / values
            kernel, bias = kernel * factor[:, None, None, None], bias * factor
        else:
            bias = bias + (values if op.kind == "ADD" else -values)
        self.layers[conv.output] = replace(
            conv, kernel=kernel.astype(np.float32), bias=bias.astype(np.float32), scales=None
        )
        self._moves(op)

    def _concat(self, op: Op) -> None:
        rank = len(self.tensors[op.outputs[0]].shape)
        sources = tuple(self._resolve(number) for number in op.inputs)
        if _fused(op):
            # the runtime takes no notice of it
            raise _refusal(op, "has a fused activation; known: none")
        if op.options["Axis"] not in (-1, rank - 1):
            if len(set(sources)) > 1:
                raise _refusal(op, "concatenates along another axis than channels")
            self._broadcast(op)
        elif len(sources) == 1:
            self._nothing(op)
        else:
            self._put_concat(op, sources)

    def _put_concat(self, op: Op, sources: tuple[int, ...]) -> None:
        raw: list[int] = []
        for number, source in zip(op.inputs, sources, strict=True):
            inner = self.layers.get(source)
            if isinstance(inner, Concat) and self.readers[number] == 1 and number not in self.shared:
                raw += inner.raw
                del self.layers[source]
                self._trail(op.outputs[0], self.grids[number])
                if len(self.grids[op.outputs[0]]) > 1:
                    self._moves(op)
            else:
                raw.append(number)
        self._put(Concat(op.number, tuple(map(self._resolve, raw)), op.outputs[0], tuple(raw)))

    def _pool(self, op: Op) -> None:
        window = (op.options["FilterHeight"], op.options["FilterWidth"])
        stride = (op.options["StrideH"], op.options["StrideW"])
        source = self._resolve(op.inputs[0])
        fits = [
            same_padding(*args) == (0, 0) for args in zip(self._map(source), window, stride, strict=False)
        ]
        if _fused(op) or (op.options["Padding"] == SAME and not all(fits)):
            raise _refusal(op, "pads or activates; known: plain mean over windows")
        self._put_pool(op, window, stride)

    def _put_pool(self, op: Op, window: Pair, stride: Pair) -> None:
        source, raw, output = self._resolve(op.inputs[0]), op.inputs[0], op.outputs[0]
        first = self.layers.get(source)
        if isinstance(first, Pool) and self.readers[raw] == 1 and raw not in self.shared:
            # over one axis, then the other
            source, raw = first.sources[0], first.raw[0]
            whole = self._map(source)[:2]
            if (first.window[0] * window[0], first.window[1] * window[1]) != whole:
                raise _refusal(op, "takes means of means; known: over one axis, then the other")
            window, stride = whole, (1, 1)
            del self.layers[first.output]
            if self.tensors[output].quantisation:
                self._moves(op)
        self._put(Pool(op.number, (source,), output, (raw,), window, stride))

    def _mean(self, op: Op) -> None:
        source, output = self._resolve(op.inputs[0]), op.outputs[0]
        height, width, channels = self._map(source)
        rank = len(self.tensors[op.inputs[0]].shape)
        axes = {int(axis) % rank for axis in self._constant(op, 1).reshape(-1)}
        if rank == 3 and axes == {1} and 1 in (height, width):
            # the other axis was averaged and dropped
            axes = {1, 2}
        if rank not in (3, 4) or not axes or not axes <= {1, 2}:
            raise _refusal(op, f"takes the mean over axes {sorted(axes)}; known: height and width")
        window = (height if 1 in axes else 1, width if 2 in axes else 1)
        self.maps[output] = (height // window[0], width // window[1], channels)
        self._put_pool(op, window, (1, 1))

    def _resize(self, op: Op) -> None:
        source, output = self._resolve(op.inputs[0]), op.outputs[0]
        nearest = op.kind == "RESIZE_NEAREST_NEIGHBOR"
        if nearest and isinstance(self.layers.get(source), Tail):
            self._tail(op)
            return
        self._constant(op, 1)
        size, target = self._map(source)[:2], self._map(output)[:2]
        if size == target or size == (1, 1):
            self._broadcast(op)
            return
        flags = (op.options["AlignCorners"], op.options["HalfPixelCenters"])
        if nearest or flags not in RULES:
            kind = "takes the nearest value" if nearest else "both aligns corners and has half-pixel centres"
            raise _refusal(op, f"{kind}; known: bilinear resizes, by one of {', '.join(RULES.values())}")
        self._put(Resize(op.number, (source,), output, op.inputs[:1], RULES[flags]))

    def _broadcast(self, op: Op) -> None:
        for position in range(1, len(op.inputs) if op.kind != "CONCATENATION" else 1):
            self._constant(op, position)
        source, raw, output = self._resolve(op.inputs[0]), op.inputs[0], op.outputs[0]
        spread = self.layers.get(source)
        if isinstance(spread, Resize) and spread.rule is None:
            # along one axis, then the other
            source, raw = spread.sources[0], spread.raw[0]
        height, width, channels = self._map(source)
        if self._map(op.inputs[0]) == self._map(output):
            self._nothing(op)
        elif (height, width) == (1, 1) and self._map(output)[2] == channels:
            if spread and source in spread.sources and self.readers[op.inputs[0]] == 1:
                del self.layers[spread.output]
            self._put(Resize(op.number, (source,), output, (raw,), None))
        else:
            raise _refusal(op, f"repeats a map of {height}x{width}; known: single values over a map")

    def _cast(self, op: Op) -> None:
        (self._nothing if self._resolve(op.inputs[0]) == self.source else self._tail)(op)

    def _reshape(self, op: Op) -> None:
        source, shape = self._resolve(op.inputs[0]), self.tensors[op.outputs[0]].shape
        if isinstance(self.layers.get(source), Tail):
            self._tail(op)
            return
        for position in range(1, len(op.inputs)):
            self._constant(op, position)
        if source == self.source and source not in self.maps and len(self.tensors[source].shape) != 4:
            if len(shape) == 4:
                self.maps[source] = shape[1:]
            self._nothing(op)
            return
        kept = self._map(source)
        # only axes of length 1 come and go, or the map is one long row of the same channels
        same = [side for side in shape if side > 1] == [side for side in kept if side > 1]
        row = len(shape) < 4 and shape[-1:] == kept[2:] and math.prod(shape) == math.prod(kept)
        if not (same or row):
            raise _refusal(op, f"makes {shape} of a map {kept}; known: what leaves rows and channels alone")
        self._nothing(op)

    def _transpose(self, op: Op) -> None:
        order = tuple(self._constant(op, 1).tolist())
        source, output = self._resolve(op.inputs[0]), op.outputs[0]
        if source == self.source and order == (0, 2, 3, 1):
            height, width, channels = self.tensors[output].shape[1:]
            self.maps[source] = height, width, channels
            self._nothing(op)
        elif order == (0, 3, 1, 2):
            self.channels_first.add(output)
            self._tail(op)
        else:
            raise _refusal(
                op, f"puts axes in the order {order}; known: channels last at the input, or first behind"
            )

    def _arg_max(self, op: Op) -> None:
        axis = int(self._constant(op, 1).reshape(-1)[0])
        rank = len(self.tensors[op.inputs[0]].shape)
        known = 1 if op.inputs[0] in self.channels_first else rank - 1
        if axis % rank != known:
            raise _refusal(op, f"takes the largest along axis {axis}; known: {known}, the classes")
        self._tail(op)

    def _tail(self, op: Op) -> None:
        for position in range(1, len(op.inputs)):
            self._constant(op, position)
        if op.kind == "SOFTMAX" and op.inputs[0] in self.channels_first:
            raise _refusal(op, "is taken along rows; known: along the classes")
        self._put(Tail(op.number, (self._resolve(op.inputs[0]),), op.outputs[0], op.inputs[:1], op.kind))

    def _map(self, number: int) -> tuple[int, int, int]:
        return map_size(self.maps, self.tensors, self._resolve(number))


def _same_grid(a: Quantisation, b: Quantisation) -> bool:
    return np.array_equal(a.scale, b.scale) and np.array_equal(a.zero_point, b.zero_point)


def _limits(tensor: Tensor) -> tuple[float, float, float]:
    grid = tensor.quantisation
    if grid is None or len(grid.scale) != 1 or not np.issubdtype(tensor.dtype, np.integer):
        return (*UNBOUNDED, 0.0)
    step, zero, held = float(grid.scale[0]), int(grid.zero_point[0]), np.iinfo(tensor.dtype)
    return step * (int(held.min) - zero), step * (int(held.max) - zero), step


def _fused(op: Op) -> Activation | None:
    code = op.options.get("FusedActivationFunction", 0)
    if code not in FUSED:
        raise _refusal(op, f"clips by fused activation number {code}; known: none, relu, relu6")
    return FUSED[code]


def _refusal(op: Op, why: str) -> UserError:
    return UserError(f"operation {op.number} ({op.kind}) {why}")
