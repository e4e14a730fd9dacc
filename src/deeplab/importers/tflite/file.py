"""A TensorFlow Lite file as plain data: operations and tensors, weights dequantised.

The format is a flatbuffer, file identifier TFL3; its schema comes from the `tflite` package. Quantised
values q stand for scale * (q - zero_point), per tensor or per slice along one axis (TensorFlow Lite
8-bit quantisation specification); biases are int32 with their own scale.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deeplab.errors import UserError, require

# what broken offsets and lengths raise inside the flatbuffer reader
MALFORMED = (
    struct.error,
    IndexError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
)

DTYPES = {
    "FLOAT32": np.float32, "FLOAT16": np.float16, "FLOAT64": np.float64, "INT8": np.int8, "UINT8": np.uint8,
    "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_,
}  # fmt: skip

_WINDOW = ("StrideH", "StrideW", "Padding", "FusedActivationFunction")
_DILATION = ("DilationHFactor", "DilationWFactor")
_ARITHMETIC = ("FusedActivationFunction",)
# operation -> its options table in the schema, and the options that change results
OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "CONV_2D": ("Conv2DOptions", (*_WINDOW, *_DILATION)),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (*_WINDOW, *_DILATION, "DepthMultiplier")),
    "AVERAGE_POOL_2D": ("Pool2DOptions", (*_WINDOW, "FilterHeight", "FilterWidth")),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", ("AlignCorners", "HalfPixelCenters")),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", "FusedActivationFunction")),
    "ADD": ("AddOptions", _ARITHMETIC),
    "SUB": ("SubOptions", _ARITHMETIC),
    "MUL": ("MulOptions", _ARITHMETIC),
    "DIV": ("DivOptions", _ARITHMETIC),
}


@dataclass(frozen=True)
class Quantisation:
    """scale float64 [n] and zero_point int64 [n]; n is 1, or the tensor's length along `axis`."""

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int


@dataclass(frozen=True)
class Tensor:
    """A value of the graph; `data` is what the file stores for it, None for activations."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None
    quantisation: Quantisation | None

    def real(self) -> np.ndarray:
        """float32 array of `shape`: the stored values, dequantised where they are quantised."""
        if self.data is None:
            raise ValueError(f"tensor {self.name} has no stored values")
        if self.quantisation is None:
            return self.data.astype(np.float32)
        along = [1] * len(self.shape)
        if len(self.quantisation.scale) > 1:
            along[self.quantisation.axis] = -1
        scale, zero = (a.reshape(along) for a in (self.quantisation.scale, self.quantisation.zero_point))
        return (scale * (self.data.astype(np.int64) - zero)).astype(np.float32).reshape(self.shape)


@dataclass(frozen=True)
class Op:
    """An operation: `inputs` and `outputs` are tensor numbers, -1 for an absent optional input."""

    number: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, int]


@dataclass(frozen=True)
class Graph:
    """The file's one graph; `ops` are in an order in which they can run."""

    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    description: str


def is_tflite(head: bytes) -> bool:
    """Whether a file that begins with `head` is a TensorFlow Lite model."""
    return head[4:8] == b"TFL3"


def read_tflite(path: Path) -> Graph:
    """Read the file at `path`.

    Raises:
        UserError: the extra `tflite` is not installed, or the file is damaged, cut short, or holds what
            is not read here (several graphs, sparse or sub-byte tensors).
    """
    schema = require("tflite", extra="tflite")
    try:
        graph = _Reader(path.read_bytes(), schema).graph()
        _check_order(graph)
    except UserError as error:
        raise error.within(path) from None
    except MALFORMED as error:
        raise UserError(
            f"this TensorFlow Lite file is damaged or cut short ({type(error).__name__}: {error})",
            fix="download it again and compare its size or checksum",
            file=path,
        ) from error
    return graph


class _Reader:
    def __init__(self, data: bytes, schema: ModuleType) -> None:
        self.data = data
        self.schema = schema
        self.model = schema.Model.GetRootAsModel(data, 0)
        self.op_names = _names(schema.BuiltinOperator)
        self.type_names = _names(schema.TensorType)

    def graph(self) -> Graph:
        if self.model.SubgraphsLength() != 1:
            raise UserError(
                f"{self.model.SubgraphsLength()} graphs in one file; only files with one are read"
            )
        graph = self.model.Subgraphs(0)
        count = graph.TensorsLength()
        return Graph(
            tensors=tuple(self._tensor(graph.Tensors(i)) for i in range(self._plausible(count))),
            ops=tuple(
                self._op(i, graph.Operators(i), count)
                for i in range(self._plausible(graph.OperatorsLength()))
            ),
            inputs=_numbers(graph.InputsAsNumpy(), count),
            outputs=_numbers(graph.OutputsAsNumpy(), count),
            description=(self.model.Description() or b"").decode("utf-8", "replace"),
        )

    def _plausible(self, count: int) -> int:
        # every entry of a vector takes at least four bytes of the file
        if 4 * count > len(self.data):
            raise ValueError(f"a list of {count} entries in {len(self.data)} bytes")
        return count

    def _tensor(self, entry: Any) -> Tensor:
        name = (entry.Name() or b"").decode("utf-8", "replace")
        kind = self.type_names[entry.Type()]
        if kind not in DTYPES:
            raise UserError(f"tensor {name} has type {kind}, which is not read; known: {', '.join(DTYPES)}")
        if entry.Sparsity() is not None:
            raise UserError(f"tensor {name} is stored sparsely, which is not read")
        shape = tuple(int(side) for side in entry.ShapeAsNumpy()) if entry.ShapeLength() else ()
        dtype = np.dtype(DTYPES[kind])
        data = self._stored(entry.Buffer(), shape, dtype)
        return Tensor(name, shape, dtype.name, data, _quantisation(entry.Quantization(), shape))

    def _stored(self, number: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
        if not 0 <= number < self.model.BuffersLength():
            raise ValueError(f"buffer {number} does not exist")
        buffer = self.model.Buffers(number)
        if buffer.Offset() > 1:
            raise UserError("its weights lie outside the flatbuffer (a file above 2 GiB), which is not read")
        if not buffer.DataLength():
            return None
        raw = buffer.DataAsNumpy()
        if raw.size != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{raw.size} bytes stored for a tensor of shape {shape} and type {dtype.name}")
        return raw.view(dtype.newbyteorder("<")).reshape(shape)

    def _op(self, number: int, entry: Any, tensors: int) -> Op:
        code = self.model.OperatorCodes(entry.OpcodeIndex())
        kind = self.op_names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        if kind == "CUSTOM":
            kind = f"CUSTOM {(code.CustomCode() or b'?').decode('utf-8', 'replace')}"
        return Op(
            number,
            kind,
            _numbers(entry.InputsAsNumpy(), tensors, optional=True),
            _numbers(entry.OutputsAsNumpy(), tensors),
            self._options(kind, entry.BuiltinOptions()),
        )

    def _options(self, kind: str, table: Any) -> dict[str, int]:
        if kind not in OPTIONS:
            return {}
        if table is None:
            raise ValueError(f"{kind} without options")
        name, fields = OPTIONS[kind]
        options = getattr(self.schema, name)()
        options.Init(table.Bytes, table.Pos)
        return {field: int(getattr(options, field)()) for field in fields}


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _numbers(values: Any, count: int, *, optional: bool = False) -> tuple[int, ...]:
    # the schema package answers 0 for an absent vector
    numbers = tuple(int(value) for value in values) if isinstance(values, np.ndarray) else ()
    if any(not (-1 if optional else 0) <= number < count for number in numbers):
        raise ValueError(f"tensor numbers {numbers} among {count} tensors")
    return numbers


def _quantisation(entry: Any, shape: tuple[int, ...]) -> Quantisation | None:
    if entry is None or not entry.ScaleLength():
        return None
    scale = entry.ScaleAsNumpy().astype(np.float64)
    zeros = (
        entry.ZeroPointAsNumpy().astype(np.int64)
        if entry.ZeroPointLength()
        else np.zeros(len(scale), np.int64)
    )
    axis = entry.QuantizedDimension()
    fits = len(scale) == 1 or (0 <= axis < len(shape) and len(scale) == shape[axis])
    if not fits or len(zeros) != len(scale) or not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError(f"quantisation of {len(scale)} scales, axis {axis}, for a tensor of shape {shape}")
    return Quantisation(scale, zeros, axis)


def _check_order(graph: Graph) -> None:
    known = {*graph.inputs, -1, *(i for i, tensor in enumerate(graph.tensors) if tensor.data is not None)}
    for op in graph.ops:
        if not known.issuperset(op.inputs):
            raise ValueError(f"operation {op.number} ({op.kind}) reads a tensor that nothing before it makes")
        known.update(op.outputs)
