"""A TensorFlow graph seen as layers: each convolution's variable, stride, rate, and what is around it.

An atrous convolution is written in one of two ways: by `dilations`, or as SpaceToBatchND, a dense VALID
convolution and BatchToSpaceND, where the block is the rate. In an 8-bit graph the weights pass through the
folding of the norm (a product) and a fake quantisation on their way to the convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from deeplab.importers.tensorflow.graph import Graph, Node
from deeplab.importers.tensorflow.variables import KERNELS

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
POOLINGS = ("AvgPool", "MaxPool")
VARIABLES = ("Const", "VariableV2", "Variable", "VarHandleOp")
FAKE_QUANTS = ("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel", "FakeQuantWithMinMaxArgs")
# between a variable and the convolution that uses it
ON_THE_WAY = ("Identity", "ReadVariableOp", "Mul", *FAKE_QUANTS)
# between a convolution and its activation or resize
BEHIND = ("BiasAdd", "Add", "AddV2", "Sub", "Mul", "BatchToSpaceND", "Identity", *FAKE_QUANTS)
NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
ACTIVATIONS = ("Relu", "Relu6", "Sigmoid")


class Conv(NamedTuple):
    """A convolution: one stride, and a rate (vertical, horizontal), as the reference has them."""

    node: Node
    stride: int
    rate: tuple[int, int]


def convolutions(graph: Graph) -> dict[str, Conv]:
    """For each variable of weights, the first convolution that uses it."""
    found: dict[str, Conv] = {}
    for node in graph.nodes.values():
        if node.op not in CONVOLUTIONS or len(node.inputs) < 2:
            continue
        variable = _variable(graph, node.inputs[1])
        if variable is not None and variable not in found:
            found[variable] = Conv(node, stride_of(node), _rate(graph, node))
    return found


def stride_of(node: Node) -> int:
    """The stride of a convolution or pooling."""
    return _spatial(node, "strides")[0]


def window_of(node: Node) -> tuple[int, int]:
    """Height and width of a pooling's window."""
    return _spatial(node, "ksize")


def strides_of(node: Node) -> tuple[int, int]:
    """Vertical and horizontal stride of a pooling."""
    return _spatial(node, "strides")


def upstream(graph: Graph, node: Node) -> Iterator[Node]:
    """The nodes that `node`'s data comes from, nearest first: by the first input that is no constant."""
    seen = set[str]()
    while node.name not in seen:
        seen.add(node.name)
        names = [name for name in node.inputs if name in graph.nodes and not graph.is_constant(name)]
        if not names:
            return
        node = graph.nodes[names[0]]
        yield node


def total_stride(graph: Graph, node: Node) -> int:
    """Input side over side of what `node` reads, by the strides on the way."""
    steps = [step for step in upstream(graph, node) if step.op in (*CONVOLUTIONS, "MaxPool")]
    return int(np.prod([stride_of(step) for step in steps], dtype=int))


def activation_behind(graph: Graph, node: Node) -> str | None:
    """The activation behind a convolution, by TensorFlow's name; None for a linear one."""
    found = _first_behind(graph, node, ACTIVATIONS)
    return None if found is None else found.op


def size_behind(graph: Graph, node: Node) -> tuple[int, int] | None:
    """The size that a convolution's output is resized to; None if it is not, or not to a fixed size."""
    found = _first_behind(graph, node, ("ResizeBilinear",), through=ACTIVATIONS)
    return None if found is None else size_of(graph, found)


def size_of(graph: Graph, resize: Node) -> tuple[int, int] | None:
    """The size that a resize gives; None where it is computed as the graph runs."""
    size = graph.constant(resize.inputs[1])
    source = graph.nodes[resize.inputs[1]]
    if size is None and source.op == "StridedSlice":
        # height and width cut from a constant shape [N, H, W, C]
        shape = graph.constant(source.inputs[0])
        size = None if shape is None else shape[1:3]
    if size is None and source.op == "Pack":
        sides = [graph.constant(name) for name in source.inputs]
        size = None if any(side is None for side in sides) else np.array(sides)
    return None if size is None or len(size) != 2 else (int(size[0]), int(size[1]))


def epsilons(graph: Graph) -> dict[str, float]:
    """For each moving variance, what its norm adds to it: an attribute, or a constant in an addition."""
    found: dict[str, float] = {}
    for name in graph.nodes:
        if name.rpartition("/")[2] == "moving_variance":
            for reader in _readers(graph, name):
                value = _epsilon(graph, reader)
                if value is not None:
                    found[name] = value
    return found


def _epsilon(graph: Graph, reader: Node) -> float | None:
    if reader.op in NORMS and "epsilon" in reader.attributes:
        return float(reader.attributes["epsilon"].number())
    if reader.op in ("Add", "AddV2"):
        for name in reader.inputs:
            value = graph.constant(name)
            if value is not None and value.ndim == 0:
                return float(value)
    return None


def _readers(graph: Graph, name: str) -> Iterator[Node]:
    for reader in graph.readers.get(name, []):
        if reader.op in ("Identity", "ReadVariableOp"):
            yield from _readers(graph, reader.name)
        else:
            yield reader


def _variable(graph: Graph, name: str) -> str | None:
    waiting = [name]
    while waiting:
        node = graph.nodes.get(waiting.pop(0))
        if node is None:
            continue
        if node.op in VARIABLES and node.name.rpartition("/")[2] in KERNELS:
            return node.name
        if node.op in ON_THE_WAY:
            waiting += node.inputs
    return None


def _rate(graph: Graph, node: Node) -> tuple[int, int]:
    source = graph.nodes.get(node.inputs[0])
    if source is not None and source.op == "SpaceToBatchND":
        block = graph.constant(source.inputs[1])
        if block is not None and len(block) == 2:
            return int(block[0]), int(block[1])
    return _spatial(node, "dilations")


def _spatial(node: Node, attribute: str) -> tuple[int, int]:
    values = node.integers(attribute)
    if len(values) != 4:
        return 1, 1
    first = 2 if "data_format" in node.attributes and node.attributes["data_format"].string() == "NCHW" else 1
    return values[first], values[first + 1]


def _first_behind(
    graph: Graph, node: Node, wanted: tuple[str, ...], *, through: tuple[str, ...] = ()
) -> Node | None:
    waiting, seen = [node.name], {node.name}
    while waiting:
        for reader in graph.readers.get(waiting.pop(0), []):
            if reader.op in wanted:
                return reader
            if reader.op in (*BEHIND, *NORMS, *through) and reader.name not in seen:
                seen.add(reader.name)
                waiting.append(reader.name)
    return None
