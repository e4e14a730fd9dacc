"""Other graphs that compute the same: how converters, and people who edit graphs, write what DeepLab computes.

`FORMS` maps a name to a rewriting of a float graph by `tflite_writer`; each gives a file whose outputs are the same
numbers (up to rounding where constants are joined), or the same labels where only the end changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from deeplab.importers.tflite.file import Graph, Op, Tensor

PLAIN = {"FusedActivationFunction": 0}


class Rewriter:
    """A graph under change: operations are added anywhere, and put in running order at the end."""

    def __init__(self, graph: Graph) -> None:
        self.original = graph
        self.tensors = list(graph.tensors)
        self.ops = list(graph.ops)
        self.inputs, self.outputs = list(graph.inputs), list(graph.outputs)

    def graph(self) -> Graph:
        known = {*self.inputs, -1, *(i for i, tensor in enumerate(self.tensors) if tensor.data is not None)}
        waiting, done = list(self.ops), []
        while waiting:
            ready = next(op for op in waiting if known.issuperset(op.inputs))
            waiting.remove(ready)
            known.update(ready.outputs)
            done.append(replace(ready, number=len(done)))
        kept = sorted({number for op in done for number in (*op.inputs, *op.outputs) if number >= 0})
        place = {number: index for index, number in enumerate(kept)} | {-1: -1}
        ops = tuple(
            replace(op, inputs=tuple(map(place.get, op.inputs)), outputs=tuple(map(place.get, op.outputs)))
            for op in done
        )
        tensors = tuple(self.tensors[number] for number in kept)
        ends = (tuple(map(place.get, numbers)) for numbers in (self.inputs, self.outputs))
        return Graph(tensors, ops, *ends, self.original.description)

    def constant(self, values: object, dtype: str = "int32") -> int:
        data = np.asarray(values, dtype)
        self.tensors.append(Tensor(f"c{len(self.tensors)}", data.shape, data.dtype.name, data, None))
        return len(self.tensors) - 1

    def like(self, number: int, shape: tuple[int, ...] | None = None, **changes: object) -> int:
        tensor = self.tensors[number]
        self.tensors.append(
            replace(tensor, name=f"n{len(self.tensors)}", shape=shape or tensor.shape, data=None, **changes)
        )
        return len(self.tensors) - 1

    def add(self, kind: str, inputs: list[int], output: int, **options: int) -> int:
        self.ops.append(Op(-1, kind, tuple(inputs), (output,), options))
        return output

    def remove(self, op: Op) -> None:
        self.ops.remove(op)

    def change(self, op: Op, **changes: object) -> Op:
        self.ops[self.ops.index(op)] = changed = replace(op, **changes)
        return changed

    def made_by(self, number: int) -> Op:
        return next(op for op in self.ops if number in op.outputs)

    def readers(self, number: int) -> list[Op]:
        return [op for op in self.ops if number in op.inputs]

    def of_kind(self, *kinds: str) -> list[Op]:
        return [op for op in self.ops if op.kind in kinds]

    def shape(self, number: int) -> tuple[int, ...]:
        return self.tensors[number].shape

    def set_data(self, number: int, data: np.ndarray) -> int:
        self.tensors.append(
            replace(self.tensors[number], data=np.ascontiguousarray(data), shape=data.shape, name="w")
        )
        return len(self.tensors) - 1

    def put_behind(self, number: int) -> int:
        """A new tensor that takes the place of `number` as what its operation makes; `number` is free."""
        maker, made = self.made_by(number), self.like(number)
        self.change(maker, outputs=(made,))
        return made

    def broadcast(self) -> Op:
        """The resize that spreads the pooled features."""
        return next(op for op in self.of_kind("RESIZE_BILINEAR") if self.shape(op.inputs[0])[1:3] == (1, 1))

    def pool(self) -> Op:
        return next(iter(self.of_kind("AVERAGE_POOL_2D")))

    def end(self) -> int:
        """The full-size logits."""
        ends = [op for op in self.ops if op.kind == "ARG_MAX"]
        return ends[0].inputs[0] if ends else self.outputs[0]


def broadcast_as(kind: str) -> Callable[[Rewriter], None]:
    def rewrite(graph: Rewriter) -> None:
        op = graph.broadcast()
        source, output = op.inputs[0], op.outputs[0]
        _, height, width, channels = graph.shape(output)
        graph.remove(op)
        rows = graph.like(source, (1, height, 1, channels))
        if kind == "TILE":
            graph.add(kind, [source, graph.constant([1, height, width, 1])], output)
        elif kind == "TILE TILE":
            graph.add("TILE", [source, graph.constant([1, height, 1, 1])], rows)
            graph.add("TILE", [rows, graph.constant([1, 1, width, 1])], output)
        elif kind == "BROADCAST_TO":
            graph.add(kind, [source, graph.constant([1, height, width, channels])], output)
        elif kind == "RESIZE_NEAREST_NEIGHBOR":
            flags = {"AlignCorners": 0, "HalfPixelCenters": 0}
            graph.add(kind, [source, graph.constant([height, width])], output, **flags)
        elif kind == "CONCATENATION":
            graph.add(kind, [source] * height, rows, Axis=1, **PLAIN)
            graph.add(kind, [rows] * width, output, Axis=2, **PLAIN)
        elif kind == "RESHAPE TILE":
            flat = graph.add("RESHAPE", [source, graph.constant([channels])], graph.like(source, (channels,)))
            back = graph.add(
                "RESHAPE",
                [flat, graph.constant([1, 1, 1, channels])],
                graph.like(source, (1, 1, 1, channels)),
            )
            graph.add("TILE", [back, graph.constant([1, height, width, 1])], output)
        else:
            neutral = np.full((1, height, width, 1), 1 if kind == "MUL" else 0)
            graph.add(kind, [graph.constant(neutral, "float32"), source], output, **PLAIN)

    return rewrite


def broadcast_before_the_convolution(graph: Rewriter) -> None:
    op = graph.broadcast()
    conv = graph.made_by(op.inputs[0])
    _, height, width, _ = graph.shape(op.outputs[0])
    pooled = conv.inputs[0]
    wide = graph.like(pooled, (1, height, width, graph.shape(pooled)[3]))
    graph.remove(op)
    graph.add("TILE", [pooled, graph.constant([1, height, width, 1])], wide)
    graph.change(conv, inputs=(wide, *conv.inputs[1:]), outputs=op.outputs)


def pool_as(kind: str) -> Callable[[Rewriter], None]:
    def rewrite(graph: Rewriter) -> None:
        op = graph.pool()
        source, output = op.inputs[0], op.outputs[0]
        _, height, width, channels = graph.shape(source)
        if kind == "SAME":
            options = op.options | {"Padding": 0, "StrideH": height, "StrideW": width}
            graph.change(op, options=options)
            return
        graph.remove(op)
        if kind == "MEAN":
            graph.add("MEAN", [source, graph.constant([1, 2])], output, KeepDims=1)
        elif kind == "MEAN of negative axes":
            graph.add("MEAN", [source, graph.constant([-2, -3])], output, KeepDims=1)
        elif kind == "MEAN RESHAPE":
            flat = graph.add(
                "MEAN", [source, graph.constant([1, 2])], graph.like(source, (1, channels)), KeepDims=0
            )
            graph.add("RESHAPE", [flat, graph.constant([1, 1, 1, channels])], output)
        elif kind == "MEAN MEAN":
            rows = graph.like(source, (1, 1, width, channels))
            graph.add("MEAN", [source, graph.constant([1])], rows, KeepDims=1)
            graph.add("MEAN", [rows, graph.constant([2])], output, KeepDims=1)
        elif kind == "MEAN MEAN EXPAND_DIMS":
            rows, flat = graph.like(source, (1, width, channels)), graph.like(source, (1, channels))
            graph.add("MEAN", [source, graph.constant([1])], rows, KeepDims=0)
            graph.add("MEAN", [rows, graph.constant([1])], flat, KeepDims=0)
            some = graph.add("EXPAND_DIMS", [flat, graph.constant(1)], graph.like(source, (1, 1, channels)))
            graph.add("EXPAND_DIMS", [some, graph.constant(1)], output)

    return rewrite


def fully_connected(graph: Rewriter) -> None:
    conv = graph.made_by(graph.broadcast().inputs[0])
    pooled, weight, bias = conv.inputs
    channels = graph.shape(pooled)[3]
    flat = graph.add("SQUEEZE", [pooled], graph.like(pooled, (1, channels)))
    weights = graph.set_data(weight, graph.tensors[weight].data[:, 0, 0])
    made = graph.like(conv.outputs[0], (1, graph.shape(conv.outputs[0])[3]))
    graph.remove(conv)
    fused = conv.options["FusedActivationFunction"]
    graph.add("FULLY_CONNECTED", [flat, weights, bias], made, FusedActivationFunction=fused)
    graph.add("RESHAPE", [made, graph.constant(graph.shape(conv.outputs[0]))], conv.outputs[0])


def fully_connected_projection(graph: Rewriter) -> None:
    conv = graph.readers(graph.made_by(graph.pool().inputs[0]).outputs[0])
    conv = next(op for op in conv if op.kind == "CONV_2D" and graph.shape(op.inputs[1])[1:3] == (1, 1))
    source, weight, bias = conv.inputs
    weights = graph.set_data(weight, graph.tensors[weight].data[:, 0, 0])
    _, height, width, channels = graph.shape(source)
    row = graph.add(
        "RESHAPE", [source, graph.constant([-1, channels])], graph.like(source, (height * width, channels))
    )
    made = graph.like(conv.outputs[0], (height * width, graph.shape(conv.outputs[0])[3]))
    graph.remove(conv)
    fused = conv.options["FusedActivationFunction"]
    graph.add("FULLY_CONNECTED", [row, weights, bias], made, FusedActivationFunction=fused)
    graph.add("RESHAPE", [made, graph.constant(graph.shape(conv.outputs[0]))], conv.outputs[0])


def activations_as(kind: str) -> Callable[[Rewriter], None]:
    def rewrite(graph: Rewriter) -> None:
        for op in graph.of_kind("CONV_2D", "DEPTHWISE_CONV_2D"):
            code = op.options["FusedActivationFunction"]
            if not code:
                continue
            graph.change(op, options=op.options | PLAIN)
            output = op.outputs[0]
            made = graph.put_behind(output)
            if kind == "operations":
                graph.add({1: "RELU", 3: "RELU6"}[code], [made], output)
                continue
            positive = output if code == 1 else graph.like(output)
            graph.add("MAXIMUM", [made, graph.constant(0, "float32")], positive)
            if code == 3:
                graph.add("MINIMUM", [graph.constant([6], "float32"), positive], output)

    return rewrite


def activation_behind_the_concatenation(graph: Rewriter) -> None:
    concat = graph.of_kind("CONCATENATION")[0]
    for number in concat.inputs:
        conv = graph.made_by(number)
        # the pooled branch's stands before the broadcast
        while conv.kind != "CONV_2D":
            conv = graph.made_by(conv.inputs[0])
        graph.change(conv, options=conv.options | PLAIN)
    output = concat.outputs[0]
    graph.add("RELU", [graph.put_behind(output)], output)


def activation_behind_the_broadcast(graph: Rewriter) -> None:
    op = graph.broadcast()
    conv = graph.made_by(op.inputs[0])
    graph.change(conv, options=conv.options | PLAIN)
    graph.add("RELU", [graph.put_behind(op.outputs[0])], op.outputs[0])


def biases_as_additions(graph: Rewriter) -> None:
    for op in graph.of_kind("CONV_2D", "DEPTHWISE_CONV_2D"):
        bias, output, code = op.inputs[2], op.outputs[0], op.options["FusedActivationFunction"]
        made = graph.put_behind(output)
        op = graph.made_by(made)
        graph.change(op, inputs=(*op.inputs[:2], graph.constant(np.zeros(graph.shape(bias)), "float32")))
        op = graph.made_by(made)
        graph.change(op, options=op.options | PLAIN)
        graph.add("ADD", [made, bias], output, FusedActivationFunction=code)


def norms_as_products_and_sums(graph: Rewriter) -> None:
    random = np.random.default_rng(0)
    for op in graph.of_kind("DEPTHWISE_CONV_2D"):
        weight, bias, output = op.inputs[1], op.inputs[2], op.outputs[0]
        code = op.options["FusedActivationFunction"]
        factor = (2.0 ** random.integers(-2, 3, graph.shape(bias))).astype(np.float32)
        slim = graph.set_data(weight, graph.tensors[weight].data / factor)
        zeros = graph.constant(np.zeros(graph.shape(bias)), "float32")
        graph.change(op, inputs=(op.inputs[0], slim, zeros), options=op.options | PLAIN)
        made = graph.put_behind(output)
        scaled = graph.add("MUL", [made, graph.constant(factor, "float32")], graph.like(output), **PLAIN)
        if code == 1:
            graph.add("ADD", [bias, scaled], output, FusedActivationFunction=1)
            continue
        end = output if code == 0 else graph.like(output)
        moved = graph.add("SUB", [scaled, graph.constant(-graph.tensors[bias].data, "float32")], end, **PLAIN)
        if code == 3:
            graph.add("RELU6", [moved], output)


def reversed_concatenations(graph: Rewriter) -> None:
    for concat in graph.of_kind("CONCATENATION"):
        sizes = [graph.shape(number)[3] for number in concat.inputs]
        starts = np.cumsum([0, *sizes])
        order = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in reversed(range(len(sizes)))])
        graph.change(concat, inputs=tuple(reversed(concat.inputs)))
        reorder(graph, concat.outputs[0], order)


def reorder(graph: Rewriter, number: int, order: np.ndarray) -> None:
    """Let what reads `number` expect its channels in `order`."""
    for op in graph.readers(number):
        if op.kind == "DEPTHWISE_CONV_2D":
            inputs = [
                op.inputs[0],
                *(graph.set_data(i, graph.tensors[i].data[..., order]) for i in op.inputs[1:]),
            ]
            graph.change(op, inputs=tuple(inputs))
            reorder(graph, op.outputs[0], order)
        elif op.kind == "CONV_2D":
            weight = graph.set_data(op.inputs[1], graph.tensors[op.inputs[1]].data[..., order])
            graph.change(op, inputs=(op.inputs[0], weight, *op.inputs[2:]))
        elif op.kind == "CONCATENATION":
            sizes = [graph.shape(i)[3] for i in op.inputs]
            start = sum(sizes[: op.inputs.index(number)])
            joined = np.arange(sum(sizes))
            joined[start : start + len(order)] = start + order
            reorder(graph, op.outputs[0], joined)
        else:
            reorder(graph, op.outputs[0], order)


def nested_concatenations(graph: Rewriter) -> None:
    concat = graph.of_kind("CONCATENATION")[0]
    first, second, *rest = concat.inputs
    shape = (*graph.shape(first)[:3], graph.shape(first)[3] + graph.shape(second)[3])
    inner = graph.add("CONCATENATION", [first, second], graph.like(concat.outputs[0], shape), Axis=3, **PLAIN)
    # with nothing left to join it becomes a concatenation of one
    graph.change(concat, inputs=(inner, *rest), options=concat.options | {"Axis": -1})


def explicit_padding(graph: Rewriter) -> None:
    for op in graph.of_kind("CONV_2D", "DEPTHWISE_CONV_2D"):
        if op.options["Padding"] == 1 or graph.shape(op.inputs[1])[1:3] == (1, 1):
            continue
        pads = [[0, 0], [0, 0], [0, 0], [0, 0]]
        padded = list(graph.shape(op.inputs[0]))
        for axis, name in ((1, "H"), (2, "W")):
            reach = (graph.shape(op.inputs[1])[axis] - 1) * op.options[f"Dilation{name}Factor"] + 1
            stride, side = op.options[f"Stride{name}"], padded[axis]
            total = max((math.ceil(side / stride) - 1) * stride + reach - side, 0)
            pads[axis] = [total // 2, total - total // 2]
            padded[axis] += total
        kind = "PADV2" if op.kind == "CONV_2D" else "PAD"
        extra = [graph.constant(0.0, "float32")] if kind == "PADV2" else []
        source = graph.add(
            kind, [op.inputs[0], graph.constant(pads), *extra], graph.like(op.inputs[0], tuple(padded))
        )
        graph.change(op, inputs=(source, *op.inputs[1:]), options=op.options | {"Padding": 1})


def depthwise_as_groups(graph: Rewriter) -> None:
    for op in graph.of_kind("DEPTHWISE_CONV_2D"):
        weight = graph.set_data(op.inputs[1], graph.tensors[op.inputs[1]].data.transpose(3, 1, 2, 0))
        options = {name: value for name, value in op.options.items() if name != "DepthMultiplier"}
        graph.change(op, kind="CONV_2D", inputs=(op.inputs[0], weight, op.inputs[2]), options=options)


def swapped_sums(graph: Rewriter) -> None:
    for op in graph.of_kind("ADD"):
        graph.change(op, inputs=tuple(reversed(op.inputs)))


def shuffled(graph: Rewriter) -> None:
    np.random.default_rng(0).shuffle(graph.ops)


def reshapes_in_front(graph: Rewriter) -> None:
    source = graph.inputs[0]
    shape = graph.shape(source)
    flat = graph.like(source, (1, math.prod(shape)))
    graph.inputs[0] = flat
    some = graph.add("RESHAPE", [flat, graph.constant(shape[1:])], graph.like(source, shape[1:]))
    graph.add("EXPAND_DIMS", [some, graph.constant(0)], source)


def channels_first_in_front(graph: Rewriter) -> None:
    source = graph.inputs[0]
    _, height, width, channels = graph.shape(source)
    graph.inputs[0] = graph.like(source, (1, channels, height, width))
    graph.add("TRANSPOSE", [graph.inputs[0], graph.constant([0, 2, 3, 1])], source)


def resizes_to_the_same_size(graph: Rewriter) -> None:
    for number in (graph.of_kind("CONV_2D")[place].outputs[0] for place in (0, -1)):
        flags = {"AlignCorners": 0, "HalfPixelCenters": 1}
        size = graph.constant(graph.shape(number)[1:3])
        graph.add("RESIZE_BILINEAR", [graph.put_behind(number), size], number, **flags)


def squeezed_in_between(graph: Rewriter) -> None:
    for op in graph.of_kind("ADD")[:2]:
        output = op.outputs[0]
        shape = graph.shape(output)
        made = graph.put_behind(output)
        less = graph.add("SQUEEZE", [made], graph.like(output, shape[1:]))
        graph.add("RESHAPE", [less, graph.constant(shape)], output)


def ends_in(*kinds: str) -> Callable[[Rewriter], None]:
    def rewrite(graph: Rewriter) -> None:
        x = graph.end()
        graph.ops = [op for op in graph.ops if op.kind != "ARG_MAX"]
        axis = 3
        for kind in kinds:
            shape = graph.shape(x)
            if kind == "ARG_MAX":
                target = tuple(side for place, side in enumerate(shape) if place != axis)
                x = graph.add(
                    kind, [x, graph.constant(axis)], graph.like(x, target, dtype="int64"), OutputType=4
                )
            elif kind == "TRANSPOSE":
                axis, target = 1, (shape[0], shape[3], *shape[1:3])
                x = graph.add(kind, [x, graph.constant([0, 3, 1, 2])], graph.like(x, target))
            elif kind == "CAST":
                x = graph.add(kind, [x], graph.like(x, dtype="int32"))
            elif kind == "RESHAPE":
                axis, target = 2, (shape[0], shape[1] * shape[2], *shape[3:])
                x = graph.add(kind, [x, graph.constant(target)], graph.like(x, target))
            else:
                x = graph.add(kind, [x], graph.like(x), Beta=1)
        graph.outputs = [x]

    return rewrite


def two_outputs(graph: Rewriter) -> None:
    x = graph.end()
    graph.ops = [op for op in graph.ops if op.kind != "ARG_MAX"]
    labels = graph.add(
        "ARG_MAX", [x, graph.constant(-1)], graph.like(x, graph.shape(x)[:3], dtype="int64"), OutputType=4
    )
    graph.outputs = [graph.add("SOFTMAX", [x], graph.like(x), Beta=1), labels]


# forms of one thing stand together: a graph has one of each at most, and they are put in from the first to the last
GROUPS: tuple[dict[str, Callable[[Rewriter], None]], ...] = (
    {
        "concatenations reversed": reversed_concatenations,
        "concatenations nested": nested_concatenations,
    },
    {
        "spread by TILE before the convolution": broadcast_before_the_convolution,
        "pooled convolution as FULLY_CONNECTED": fully_connected,
        "1x1 branch as FULLY_CONNECTED over rows": fully_connected_projection,
    },
    {
        "activations as operations": activations_as("operations"),
        "activations as bounds": activations_as("bounds"),
        "activation behind the concatenation": activation_behind_the_concatenation,
        "activation behind the broadcast": activation_behind_the_broadcast,
    },
    {
        "biases as ADD": biases_as_additions,
        "norms as MUL and ADD": norms_as_products_and_sums,
    },
    {
        f"pooled by {kind}": pool_as(kind)
        for kind in ("SAME", "MEAN", "MEAN of negative axes", "MEAN RESHAPE", "MEAN MEAN", "MEAN MEAN EXPAND_DIMS")
    },
    {
        f"spread by {kind}": broadcast_as(kind)
        for kind in (
            "TILE", "TILE TILE", "RESHAPE TILE", "BROADCAST_TO", "RESIZE_NEAREST_NEIGHBOR", "CONCATENATION", "ADD",
            "MUL",
        )
    },
    {
        "padding as PAD": explicit_padding,
        "depthwise convolutions as groups": depthwise_as_groups,
    },
    {
        "sums swapped": swapped_sums,
        "axes squeezed in between": squeezed_in_between,
        "resizes to the same size": resizes_to_the_same_size,
    },
    {
        "input reshaped": reshapes_in_front,
        "input with channels first": channels_first_in_front,
    },
    {
        "ends in SOFTMAX": ends_in("SOFTMAX"),
        "ends in ARG_MAX": ends_in("ARG_MAX"),
        "ends in SOFTMAX, ARG_MAX, CAST": ends_in("SOFTMAX", "ARG_MAX", "CAST"),
        "ends in a row": ends_in("RESHAPE", "ARG_MAX"),
        "ends with channels first": ends_in("TRANSPOSE", "ARG_MAX"),
        "ends in two outputs": two_outputs,
    },
    {"operations shuffled": shuffled},
)  # fmt: skip
FORMS = {name: form for group in GROUPS for name, form in group.items()}


def rewritten(graph: Graph, *forms: str) -> Graph:
    """`graph` with each of `forms` in turn."""
    for form in forms:
        rewriter = Rewriter(graph)
        FORMS[form](rewriter)
        graph = rewriter.graph()
    return graph


def drawn(seed: int) -> list[str]:
    """One form of each of some groups, in an order in which they go together."""
    random = np.random.default_rng(seed)
    forms: list[str] = []
    for group in GROUPS:
        form = str(random.choice(list(group)))
        # a graph spreads its pooled features once, and then no activation waits for that
        again = any("spread by" in done for done in forms) and ("spread by" in form or "broadcast" in form)
        if random.random() < 0.7 and not again:
            forms.append(form)
    return forms
