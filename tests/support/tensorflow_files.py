"""Writers of TensorFlow's checkpoints and graphs, as small as tests need, from the formats' descriptions.

Independent of the package's readers: protobuf by hand, and CRC-32C byte by byte.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

DTYPES = {np.dtype("float32"): 1, np.dtype("int32"): 3, np.dtype("int64"): 9}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def shape_proto(shape: tuple[int, ...]) -> bytes:
    return b"".join(field(2, field(1, side)) for side in shape)


def plain_crc32c(data: bytes) -> int:
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (0x82F63B78 if entry & 1 else 0)
        table.append(entry)
    crc = 0xFFFFFFFF
    for octet in data:
        crc = table[(crc ^ octet) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> int:
    crc = plain_crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_checkpoint(prefix: Path, arrays: dict[str, np.ndarray]) -> Path:
    """PREFIX.index, which is returned, and its one shard."""
    pairs, size = [(b"", field(1, 1) + field(3, field(1, 1)))], 0
    with Path(f"{prefix}.data-00000-of-00001").open("wb") as shard:
        for name in sorted(arrays):
            value, raw = arrays[name], arrays[name].tobytes()
            entry = field(1, DTYPES[value.dtype]) + field(2, shape_proto(value.shape)) + field(4, size)
            entry += field(5, len(raw)) + varint(6 << 3 | 5) + struct.pack("<I", masked_crc(raw))
            pairs.append((name.encode(), entry))
            size += shard.write(raw)
    index = Path(f"{prefix}.index")
    index.write_bytes(_table(pairs))
    return index


def _table(pairs: list[tuple[bytes, bytes]]) -> bytes:
    table, handles = b"", []
    for start in range(0, len(pairs), 50):
        part = pairs[start : start + 50]
        block = _block(part)
        handles.append((part[-1][0], varint(len(table)) + varint(len(block))))
        table += block + _trailer(block)
    ends = []
    for block in (_block([]), _block(handles)):
        ends.append(varint(len(table)) + varint(len(block)))
        table += block + _trailer(block)
    return table + b"".join(ends).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def _block(pairs: list[tuple[bytes, bytes]]) -> bytes:
    block, last = b"", b""
    for key, value in pairs:
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        block += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return block + struct.pack("<II", 0, 1)


def _trailer(block: bytes) -> bytes:
    return b"\0" + struct.pack("<I", masked_crc(block + b"\0"))


class GraphWriter:
    """Nodes added one by one; `save` writes the GraphDef."""

    def __init__(self) -> None:
        self.data = b""

    def node(self, name: str, op: str, *inputs: str, **attributes: bytes) -> str:
        body = field(1, name) + field(2, op) + b"".join(field(3, item) for item in inputs)
        for key, value in attributes.items():
            body += field(5, field(1, key) + field(2, value))
        self.data += field(1, body)
        return name

    def constant(self, name: str, value: np.ndarray | list | float) -> str:
        array = np.asarray(value)
        array = array.astype(np.int32 if array.dtype.kind == "i" else np.float32)
        tensor = (
            field(1, DTYPES[array.dtype]) + field(2, shape_proto(array.shape)) + field(4, array.tobytes())
        )
        return self.node(name, "Const", dtype=field(6, DTYPES[array.dtype]), value=field(8, tensor))

    def conv(
        self,
        name: str,
        x: str,
        *,
        stride: int = 1,
        rate: tuple[int, int] | int = 1,
        block: bool = True,
        weights: str = "",
    ) -> str:
        """A convolution whose weights are called `name`; atrous by a block, or by the attribute."""
        scope = name.rpartition("/")[0]
        rates = (rate, rate) if isinstance(rate, int) else rate
        op = "DepthwiseConv2dNative" if name.endswith("depthwise_weights") else "Conv2D"
        weights = weights or self.node(
            f"{name}/read", "Identity", self.constant(name, np.zeros((1, 1, 1, 1)))
        )
        if block and rates != (1, 1):
            sizes = self.constant(f"{scope}/block_shape", list(rates))
            paddings = self.constant(f"{scope}/paddings", [[0, 0], [0, 0]])
            x = self.node(f"{scope}/SpaceToBatchND", "SpaceToBatchND", x, sizes, paddings)
        dilations = integers([1, *rates, 1] if not block else [1, 1, 1, 1])
        strides = integers([1, stride, stride, 1])
        out = self.node(f"{scope}/conv", op, x, weights, strides=strides, dilations=dilations)
        if block and rates != (1, 1):
            out = self.node(
                f"{scope}/BatchToSpaceND", "BatchToSpaceND", out, f"{scope}/block_shape", f"{scope}/crops"
            )
        return out

    def norm(self, scope: str, x: str, *, epsilon: float) -> str:
        variance = self.constant(f"{scope}/BatchNorm/moving_variance", np.ones(1))
        attribute = varint(4 << 3 | 5) + struct.pack("<f", epsilon)
        return self.node(
            f"{scope}/FusedBatchNorm", "FusedBatchNorm", x, "g", "b", "m", variance, epsilon=attribute
        )

    def pool(self, name: str, x: str, window: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> str:
        return self.node(
            name, "AvgPool", x, ksize=integers([1, *window, 1]), strides=integers([1, *stride, 1])
        )

    def resize(self, name: str, x: str, size: tuple[int, int]) -> str:
        sizes = self.constant(f"{name}/size", list(size))
        return self.node(name, "ResizeBilinear", x, sizes, align_corners=field(5, 1))

    def save(self, path: Path) -> Path:
        path.write_bytes(self.data)
        return path


def integers(values: list[int]) -> bytes:
    return field(1, field(3, b"".join(map(varint, values))))
