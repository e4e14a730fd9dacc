"""ONNX's stored arrays and the convolutions that use them, without the onnx package.

Messages ModelProto, GraphProto, NodeProto and TensorProto of onnx.proto. Only what filling a backbone needs
is read: float initialisers kept inside the file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab.errors import UserError
from deeplab.system.files.protobuf_wire import Message, message, sub_message, sub_messages, text, varints
from deeplab.system.reading import foreign, read_bytes

FLOAT = 1


class Convolution(NamedTuple):
    """float32 [out, in / groups, kh, kw] and [out]; no bias is None."""

    weight: np.ndarray
    bias: np.ndarray | None


def read_convolutions(path: Path) -> list[Convolution]:
    """The convolutions of the graph in the file at `path`, in the order they run.

    Raises:
        UserError: the file cannot be read, is damaged, or a convolution's weights are not in it as floats.
    """
    with foreign(path):
        graph = message(sub_message(message(memoryview(read_bytes(path))), 7))
        tensors = [message(piece) for piece in sub_messages(graph, 5)]
        arrays = {text(tensor.get(8, [])): tensor for tensor in tensors}
        return [
            _convolution([text([name]) for name in node.get(1, [])], arrays)
            for node in map(message, sub_messages(graph, 1))
            if text(node.get(4, [])) == "Conv"
        ]


def _convolution(inputs: list[str], arrays: dict[str, Message]) -> Convolution:
    missing = [name for name in inputs[1:] if name not in arrays]
    if missing or len(inputs) < 2:
        raise UserError(f"a convolution's weights {', '.join(missing)} are not stored in the file")
    values = [_array(arrays[name], name) for name in inputs[1:]]
    return Convolution(values[0], values[1] if len(values) > 1 else None)


def _array(tensor: Message, name: str) -> np.ndarray:
    shape = varints(tensor.get(1, []))
    # raw bytes, or floats packed in a field of their own
    data = b"".join(sub_messages(tensor, 9 if 9 in tensor else 4))
    if varints(tensor.get(2, [0])) != [FLOAT] or len(data) != 4 * math.prod(shape):
        raise UserError(f"{name} is no array of {'x'.join(map(str, shape))} floats inside the file")
    return np.frombuffer(data, "<f4").reshape(shape)
