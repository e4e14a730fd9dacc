"""Caffe networks for tests: written as .caffemodel by the public schema, and run by Caffe's rules.

Layers are stated as in a prototxt. `encode` writes caffe.proto's messages; `run` is the oracle: plain
torch.nn.functional calls in the order of the layers. Nothing of the importer under test is used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F

V1_KINDS = {"Convolution": 4, "Dropout": 6, "InnerProduct": 14, "Pooling": 17, "ReLU": 18, "Eltwise": 25}


@dataclass(frozen=True)
class Layer:
    """A layer of a prototxt; tops have the name of the layer, unless it works in place."""

    name: str
    kind: str
    bottoms: tuple[str, ...]
    blobs: tuple[np.ndarray, ...] = ()
    top: str = ""
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    rate: int = 1
    mean: bool = False
    maximum: bool = False
    eps: float = 1e-5


@dataclass(frozen=True)
class Style:
    """How a file is written: V1 layers or new ones, packed floats, old shapes, a dilation field, windows."""

    v1: bool = False
    packed: bool = True
    old_shapes: bool = False
    dilation: bool = True
    windows: bool = True
    network: str = "net"


@dataclass
class Network:
    """Layers in order, with random weights; with `hollow`, zeros that take no memory, for their shapes."""

    seed: int = 0
    hollow: bool = False
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def conv(
        self, name: str, bottom: str, width: tuple[int, int], *, bias: bool = True, **window: int
    ) -> str:
        """A convolution of `width` = (in, out) channels, with weights of He's deviation."""
        kernel = window.get("kernel", 1)
        shape = (width[1], width[0], kernel, kernel)
        if self.hollow:
            zeros = tuple(np.broadcast_to(np.float32(0), part) for part in (shape, (width[1],))[: 1 + bias])
            return self.add(Layer(name, "Convolution", (bottom,), zeros, **window))
        weight = self.generator.standard_normal(shape, dtype=np.float32)
        weight *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
        blobs = (weight, self.generator.standard_normal(width[1], dtype=np.float32)) if bias else (weight,)
        return self.add(Layer(name, "Convolution", (bottom,), blobs, **window))

    def norm(self, name: str, bottom: str, channels: int, *, eps: float = 1e-5) -> str:
        """BatchNorm (its statistics kept times 999.98) and Scale, in place."""
        times = np.float32(999.98)
        mean, shift = (0.1 * self.generator.standard_normal((2, channels), dtype=np.float32)).astype(
            np.float32
        )
        variance, scale = self.generator.uniform(0.5, 1.5, (2, channels)).astype(np.float32)
        statistics = (mean * times, variance * times, np.array([times]))
        self.add(Layer(f"bn{name}", "BatchNorm", (bottom,), statistics, top=bottom, eps=eps))
        return self.add(Layer(f"scale{name}", "Scale", (bottom,), (scale, shift), top=bottom))

    def relu(self, bottom: str) -> str:
        return self.add(Layer(f"relu_{bottom}", "ReLU", (bottom,), top=bottom))

    def add(self, layer: Layer) -> str:
        self.layers.append(layer)
        return layer.top or layer.name

    def without(self, *names: str) -> list[Layer]:
        return [layer for layer in self.layers if layer.name not in names]

    def changed(self, name: str, **values: object) -> list[Layer]:
        return [replace(layer, **values) if layer.name == name else layer for layer in self.layers]


def run(layers: list[Layer], data: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every top of the network for `data` [N, 3, H, W], by name."""
    tops = {"data": data}
    for layer in layers:
        inputs = [tops[name] for name in layer.bottoms]
        tops[layer.top or layer.name] = _step(layer, inputs)
    return tops


def _step(layer: Layer, inputs: list[torch.Tensor]) -> torch.Tensor:
    x, blobs = inputs[0], [torch.from_numpy(blob) for blob in layer.blobs]
    if layer.kind == "Convolution":
        bias = blobs[1] if len(blobs) > 1 else None
        return F.conv2d(x, blobs[0], bias, layer.stride, layer.pad, layer.rate)
    if layer.kind == "Pooling" and layer.mean:
        return F.avg_pool2d(x, layer.kernel, layer.stride, layer.pad, ceil_mode=True, count_include_pad=True)
    if layer.kind == "Pooling":
        return F.max_pool2d(x, layer.kernel, layer.stride, layer.pad, ceil_mode=True)
    if layer.kind == "BatchNorm":
        mean, variance = blobs[0] / blobs[2], blobs[1] / blobs[2]
        return (x - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + layer.eps)
    if layer.kind == "Scale":
        return x * blobs[0][:, None, None] + blobs[1][:, None, None]
    if layer.kind == "Eltwise":
        stacked = torch.stack(inputs)
        return stacked.amax(0) if layer.maximum else stacked.sum(0)
    assert layer.kind == "ReLU", layer.kind
    return F.relu(x)


def encode(layers: list[Layer], style: Style) -> bytes:
    """NetParameter: a name, then `layers` (2) or `layer` (100)."""
    number, write = (2, _v1) if style.v1 else (100, _new)
    return b"".join([_text(1, style.network), *(_bytes(number, write(layer, style)) for layer in layers)])


def _new(layer: Layer, style: Style) -> bytes:
    message = _text(1, layer.name) + _text(2, layer.kind)
    message += b"".join(_text(3, bottom) for bottom in layer.bottoms) + _text(4, layer.top or layer.name)
    message += b"".join(_bytes(7, _blob(blob, style)) for blob in layer.blobs)
    return message + _windows(layer, style, {"Convolution": 106, "Pooling": 121, "BatchNorm": 139})


def _v1(layer: Layer, style: Style) -> bytes:
    message = b"".join(_text(2, bottom) for bottom in layer.bottoms) + _text(3, layer.top or layer.name)
    message += _text(4, layer.name) + _number(5, V1_KINDS[layer.kind])
    message += b"".join(_bytes(6, _blob(blob, style)) for blob in layer.blobs)
    return message + _windows(layer, style, {"Convolution": 10, "Pooling": 19})


def _windows(layer: Layer, style: Style, numbers: dict[str, int]) -> bytes:
    if layer.kind not in numbers or not style.windows:
        return b""
    if layer.kind == "Convolution":
        inside = _number(1, len(layer.blobs[0])) if layer.blobs else b""
        inside += _number(3, layer.pad) + _number(4, layer.kernel) + _number(6, layer.stride)
        # 117: where one fork with the released v1 models' "hole" put it
        inside += _number(18 if style.dilation else 117, layer.rate)
    elif layer.kind == "Pooling":
        inside = _number(1, int(layer.mean)) + _number(2, layer.kernel) + _number(3, layer.stride)
        inside += _number(4, layer.pad)
    else:
        inside = _number(1, 1) + _key(3, 5) + struct.pack("<f", layer.eps)
    return _bytes(numbers[layer.kind], inside)


def _blob(values: np.ndarray, style: Style) -> bytes:
    if style.old_shapes:
        shape = (1,) * (4 - values.ndim) + values.shape
        message = b"".join(_number(number, side) for number, side in enumerate(shape, 1))
    else:
        message = _bytes(7, _bytes(1, b"".join(map(_varint, values.shape))))
    if style.packed:
        return message + _bytes(5, values.astype("<f4").tobytes())
    return message + b"".join(_key(5, 5) + struct.pack("<f", value) for value in values.ravel())


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(encoded) + bytes([value])


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _number(number: int, value: int) -> bytes:
    return _key(number, 0) + _varint(value)


def _bytes(number: int, value: bytes) -> bytes:
    return _key(number, 2) + _varint(len(value)) + value


def _text(number: int, value: str) -> bytes:
    return _bytes(number, value.encode())
