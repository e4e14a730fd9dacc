"""Caffe's binary weights (.caffemodel): layers, their blobs and their windows, without Caffe.

Messages NetParameter, LayerParameter, V1LayerParameter, BlobProto, ConvolutionParameter, PoolingParameter
and BatchNormParameter of caffe.proto. Caffe saves a layer's parameters beside its blobs, so that a file says
its own strides and rates. Forks differ in how they store a rate; the padding tells it for all of them.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab.errors import UserError
from deeplab.system.files.protobuf_wire import (
    Message,
    fields,
    message,
    read_varint,
    sub_message,
    sub_messages,
    text,
    varints,
)


class Numbers(NamedTuple):
    """Field numbers of a layer message; `norm` is batch_norm_param."""

    name: int
    kind: int
    blobs: int
    convolution: int
    pooling: int
    norm: int | None


# field of NetParameter that repeats the layers -> their message: V1LayerParameter, LayerParameter
LAYERS: dict[int, Numbers] = {2: Numbers(4, 5, 6, 10, 19, None), 100: Numbers(1, 2, 7, 106, 121, 139)}
# default eps of BatchNormParameter
EPSILON = 1e-5
# V1LayerParameter.LayerType, as far as such layers have weights or windows
V1_KINDS = {4: "Convolution", 14: "InnerProduct", 17: "Pooling"}
MOST_LAYERS = 10_000
MAX_POOLING, MEAN_POOLING = 0, 1


class Window(NamedTuple):
    """A square sliding window; `mean` is a pooling by average instead of maximum."""

    kernel: int
    stride: int
    pad: int
    rate: int = 1
    mean: bool = False


@dataclass(frozen=True)
class CaffeLayer:
    """A layer: `blobs` float32 arrays in Caffe's order, [out, in, kh, kw] and biases; `window` if it has one.

    Attributes:
        eps: of a BatchNorm layer.
    """

    name: str
    kind: str
    blobs: tuple[np.ndarray, ...]
    window: Window | None
    eps: float = EPSILON


def is_caffemodel(head: bytes) -> bool:
    """Whether a file that begins with `head` is a NetParameter with layers: a name, then a named layer."""
    data, position = memoryview(head), 0
    try:
        while position < len(data):
            key, position = read_varint(data, position)
            number, kind = key >> 3, key & 7
            value, behind = read_varint(data, position)
            if number in LAYERS:
                return kind == 2 and _is_layer(bytes(data[behind:]), number)
            if number == 1 and (kind != 2 or not _is_printable(bytes(data[behind : behind + value]))):
                return False
            if number > 8 or kind not in (0, 2):
                return False
            position = behind + value if kind == 2 else behind
    except UserError:
        return False
    return False


def _is_layer(start: bytes, number: int) -> bool:
    # fields come in the order of their numbers: a layer opens with its name, an old one with its connections
    opening = (0x0A,) if number == 100 else (0x12, 0x1A, 0x22)
    if len(start) < 3 or start[0] not in opening:
        return False
    behind = 2 + start[1]
    return _is_printable(start[2:behind]) and (number != 100 or start[behind : behind + 1] == b"\x12")


def _is_printable(name: bytes) -> bool:
    return bool(name) and name.isascii() and name.decode("ascii").isprintable()


def read_caffemodel(path: Path) -> dict[str, CaffeLayer]:
    """Layers by name, in the file's order; those without blobs too.

    Raises:
        UserError: the file cannot be read, is damaged, or has no layers of a format known here.
    """
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror}); give the path of a .caffemodel", file=path
        ) from error
    layers: dict[str, CaffeLayer] = {}
    try:
        for number, value in fields(data):
            if len(layers) > MOST_LAYERS:
                raise UserError(f"more than {MOST_LAYERS} layers, which no network has: the file is damaged")
            if number in LAYERS and not isinstance(value, int):
                layer = _layer(message(value), LAYERS[number])
                layers[layer.name] = layer
    except UserError as error:
        raise error.within(path) from None
    if not any(layer.blobs for layer in layers.values()):
        raise UserError(
            "no layer with weights",
            allowed=(
                "a .caffemodel saved by Caffe with 'layer' or 'layers' messages (very old ones: "
                "upgrade_net_proto_binary)"
            ),
            file=path,
        )
    return layers


def _layer(found: Message, numbers: Numbers) -> CaffeLayer:
    told = found.get(numbers.kind, [0])[-1]
    name = text(found.get(numbers.name, []))
    window, eps = None, EPSILON
    try:
        if numbers.convolution in found:
            window = _convolution(message(sub_message(found, numbers.convolution)))
        elif numbers.pooling in found:
            window = _pooling(message(sub_message(found, numbers.pooling)))
        elif numbers.norm is not None and numbers.norm in found:
            eps = _epsilon(message(sub_message(found, numbers.norm)))
        blobs = tuple(_blob(message(piece)) for piece in sub_messages(found, numbers.blobs))
    except UserError as error:
        raise UserError(f"layer {name}: {error}") from None
    kind = V1_KINDS.get(told, f"type {told}") if isinstance(told, int) else text([told])
    return CaffeLayer(name, kind, blobs, window, eps)


def _convolution(found: Message) -> Window:
    kernel = _side(found, 4, (11, 12), 1)
    pad = _side(found, 3, (9, 10), 0)
    # before Caffe had a dilation field, forks kept the rate under numbers of their own
    rate = _side(found, 18, (), 2 * pad // (kernel - 1) or 1 if kernel > 1 else 1)
    return Window(kernel, _side(found, 6, (13, 14), 1), pad, rate)


def _pooling(found: Message) -> Window:
    method = varints(found.get(1, [MAX_POOLING]))[-1]
    if method not in (MAX_POOLING, MEAN_POOLING):
        raise UserError(f"pooling method {method}; known are maximum and average")
    window = Window(_side(found, 2, (5, 6), 1), _side(found, 3, (7, 8), 1), _side(found, 4, (9, 10), 0))
    return window._replace(mean=method == MEAN_POOLING)


def _side(found: Message, number: int, sides: tuple[int, ...], default: int) -> int:
    """One length for height and width, from field `number` or from the fields of both `sides`."""
    values = [value for field in (number, *sides) for value in varints(found.get(field, []))]
    if len(set(values)) > 1:
        raise UserError(f"a window that is not square ({values}); DeepLab has none")
    return values[0] if values else default


def _epsilon(found: Message) -> float:
    return struct.unpack("<f", sub_message(found, 3))[0] if 3 in found else EPSILON


def _blob(found: Message) -> np.ndarray:
    """BlobProto: its shape, or num x channels x height x width in files before 2015; floats, or doubles."""
    if 7 in found:
        shape = varints(message(sub_message(found, 7)).get(1, []))
    else:
        shape = [varints(found.get(number, [0]))[-1] for number in (1, 2, 3, 4)]
    number, dtype = (8, "<f8") if 8 in found else (5, "<f4")
    pieces = sub_messages(found, number)
    # packed data is one piece; unpacked, one for each number
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if len(data) != math.prod(shape) * np.dtype(dtype).itemsize:
        raise UserError(
            f"a blob of shape {'x'.join(map(str, shape))} holds {len(data)} bytes: the file is damaged"
        )
    return np.frombuffer(data, dtype).astype(np.float32, copy=False).reshape(shape)
