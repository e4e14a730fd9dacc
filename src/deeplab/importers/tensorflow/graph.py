"""TensorFlow's GraphDef: nodes, attributes and constants of a frozen graph, without TensorFlow.

Messages: graph.proto, node_def.proto, attr_value.proto, tensor.proto of TensorFlow's core framework. Only
what inference graphs use is decoded; constants are decoded when asked for, so a large file costs its
structure only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab.errors import UserError
from deeplab.system.files.protobuf_wire import (
    BYTES,
    Message,
    Value,
    fields,
    message,
    read_varint,
    signed,
    sub_message,
    text,
    varints,
)

# tensor.proto: types that weights, shapes and switches come in -> NumPy's, and their field in TensorProto
DTYPES: dict[int, tuple[str, int]] = {
    1: ("<f4", 5),
    2: ("<f8", 6),
    3: ("<i4", 7),
    4: ("u1", 7),
    6: ("i1", 7),
    9: ("<i8", 10),
    10: ("?", 11),
    19: ("<f2", 13),
}
# values of one constant; the largest of a published model has 7 million
LARGEST = 1 << 28
# the largest published graph, of NAS cells, has 20 thousand
MOST_NODES = 100_000


class Attribute(NamedTuple):
    """One attribute of a node, still encoded: AttrValue."""

    data: memoryview

    def number(self) -> int | float:
        """Field i, or f."""
        found = message(self.data)
        if 4 in found:
            return float(np.frombuffer(sub_message(found, 4), "<f4")[0])
        return signed(varints(found.get(3, [0]))[-1])

    def flag(self) -> bool:
        """Field b."""
        return bool(message(self.data).get(5, [0])[-1])

    def string(self) -> str:
        """Field s."""
        return text(message(self.data).get(2, []))

    def integers(self) -> tuple[int, ...]:
        """Field list.i."""
        found = message(sub_message(message(self.data), 1))
        return tuple(signed(value) for value in varints(found.get(3, [])))

    def tensor(self) -> np.ndarray:
        """Field tensor.

        Raises:
            UserError: a type that no weights have, or another number of values than the shape says.
        """
        return _tensor(self._tensor_message())

    def shape(self) -> tuple[int, ...]:
        """The shape of field tensor; its values are not looked at."""
        return read_shape(sub_message(self._tensor_message(), 2))

    def _tensor_message(self) -> Message:
        return message(sub_message(message(self.data), 8))


@dataclass(frozen=True)
class Node:
    """An operation: `inputs` are names of nodes, output numbers and control inputs left away."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: dict[str, Attribute]

    def integers(self, name: str) -> tuple[int, ...]:
        """A list attribute; empty where it is absent."""
        return self.attributes[name].integers() if name in self.attributes else ()

    def flag(self, name: str) -> bool:
        """A switch; False where it is absent."""
        return name in self.attributes and self.attributes[name].flag()


@dataclass(frozen=True)
class Graph:
    """Nodes by name, in the file's order."""

    nodes: dict[str, Node]

    @cached_property
    def readers(self) -> dict[str, list[Node]]:
        """For each node's name, the nodes that read it."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            for name in node.inputs:
                found.setdefault(name, []).append(node)
        return found

    def is_constant(self, name: str) -> bool:
        """Whether `name` is a Const, perhaps through Identity."""
        return self._constant_node(name) is not None

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a Const (through Identity), or None for any other node."""
        node = self._constant_node(name)
        if node is None:
            return None
        try:
            return node.attributes["value"].tensor()
        except KeyError:
            raise UserError(f"the constant {node.name} has no value: the graph is damaged") from None

    def _constant_node(self, name: str) -> Node | None:
        node, seen = self.nodes.get(name), set[str]()
        while node is not None and node.op == "Identity" and node.inputs and node.name not in seen:
            seen.add(node.name)
            node = self.nodes.get(node.inputs[0])
        return node if node is not None and node.op == "Const" else None


def is_graph(head: bytes) -> bool:
    """Whether a file that begins with `head` holds a GraphDef: its first node has a name and an operation."""
    try:
        node = _leading(memoryview(head), 1)
        name = _leading(node, 1)
        operation = bytes(_leading(node, 2, skip=1))
    except UserError:
        return False
    return bool(name) and operation.isalnum() and operation.isascii()


def read_graph(path: Path) -> Graph:
    """The GraphDef in the file at `path`.

    Raises:
        UserError: the file cannot be read, is damaged, or holds no graph.
    """
    try:
        return parse_graph(memoryview(path.read_bytes()))
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror}); give the path of a frozen graph", file=path
        ) from error
    except UserError as error:
        raise error.within(path) from None


def read_meta_graph(path: Path) -> Graph:
    """The GraphDef in the MetaGraphDef (.meta) at `path`: a training's or an export's, not frozen.

    Raises:
        UserError: as `read_graph`.
    """
    try:
        return parse_graph(sub_message(message(memoryview(path.read_bytes())), 2))
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", file=path) from error
    except UserError as error:
        raise error.within(path) from None


def parse_graph(data: memoryview) -> Graph:
    """The GraphDef in `data`.

    Raises:
        UserError: bytes that are no graph.
    """
    stored = [value for number, value in fields(data) if number == 1 and not isinstance(value, int)]
    if len(stored) > MOST_NODES:
        raise UserError(f"{len(stored)} nodes, more than any network has: the graph is damaged")
    nodes = [_node(value) for value in stored]
    if not nodes:
        raise UserError("no node: this is no TensorFlow graph")
    return Graph({node.name: node for node in nodes})


def _leading(data: memoryview, number: int, *, skip: int = 0) -> memoryview:
    """The bytes of field `number` at the start of `data`, behind `skip` others; cut short where `data` is."""
    position = 0
    for _ in range(skip):
        size, position = read_varint(data, position + 1)
        position += size
    if data[position : position + 1] != bytes([number << 3 | BYTES]):
        raise UserError(f"no field {number} there")
    size, position = read_varint(data, position + 1)
    return data[position : position + size]


def read_shape(data: memoryview) -> tuple[int, ...]:
    """The dimensions in a TensorShapeProto; -1 for an unknown one."""
    dimensions = message(data).get(2, [])
    return tuple(signed(varints(message(sub_message({2: [item]}, 2)).get(1, [0]))[-1]) for item in dimensions)


def _node(data: memoryview) -> Node:
    found = message(data)
    attributes = {}
    for entry in found.get(5, []):
        pair = message(sub_message({5: [entry]}, 5))
        attributes[text(pair.get(1, []))] = Attribute(sub_message(pair, 2))
    inputs = [text([value]) for value in found.get(3, [])]
    return Node(
        name=text(found.get(1, [])),
        op=text(found.get(2, [])),
        inputs=tuple(name.partition(":")[0] for name in inputs if not name.startswith("^")),
        attributes=attributes,
    )


def _tensor(found: Message) -> np.ndarray:
    kind = varints(found.get(1, [0]))[-1]
    if kind not in DTYPES:
        raise UserError(f"a constant has type number {kind}; known: {', '.join(map(str, DTYPES))}")
    dtype, field = DTYPES[kind]
    shape = read_shape(sub_message(found, 2))
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count > LARGEST:
        raise UserError(f"a constant has shape {shape}: the graph is damaged")
    values = (
        np.frombuffer(sub_message(found, 4), dtype) if 4 in found else _values(found.get(field, []), dtype)
    )
    # a constant may stop early: the last value given is repeated to the end
    if 0 < len(values) < count and 4 not in found:
        values = np.concatenate([values, np.repeat(values[-1:], count - len(values))])
    if len(values) != count:
        raise UserError(f"a constant of shape {shape} has {len(values)} values: the graph is damaged")
    return values.reshape(shape).copy()


def _values(values: list[Value], dtype: str) -> np.ndarray:
    if dtype in ("<f4", "<f8"):
        return np.frombuffer(b"".join(bytes(value) for value in values), dtype)
    numbers = varints(values)
    if dtype == "<f2":
        return np.array(numbers, "<u2").view(dtype)
    return np.array([signed(number) for number in numbers], dtype)
