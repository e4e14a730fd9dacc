"""TFRecord files and the messages in them, without TensorFlow.

A record is: length (8 bytes), masked CRC-32C of the length (4), data, masked CRC-32C of the data (4), all
little-endian. The data are a tf.train.Example: a map from names to lists of bytes or of integers. Sources:
TensorFlow's core/lib/io/record_writer.h and core/example/{example,feature}.proto.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from deeplab.errors import UserError
from deeplab.system.files import protobuf_wire as wire
from deeplab.system.files.crc32c import ONES, crc32c, unmask
from deeplab.system.reading import plain_file
from deeplab.system.writing import whole_file

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
MASK_DELTA = 0xA282EAD8
BYTES_LIST, INT64_LIST = 1, 3

Value = bytes | int
Example = dict[str, Value]


def mask(check: int) -> int:
    """The stored form of a check: rotated and shifted, the inverse of `unmask`."""
    return ((check >> 15 | check << 17) + MASK_DELTA) & ONES


def write_records(path: Path, records: Iterable[bytes]) -> int:
    """Write `path`, whole or not at all.

    Returns:
        the number of records.

    Raises:
        UserError: it cannot be written.
    """
    count = 0
    with whole_file(path) as file:
        for data in records:
            count += 1
            length = struct.pack("<Q", len(data))
            file.write(length + FOOTER.pack(mask(crc32c(length))))
            file.write(data)
            file.write(FOOTER.pack(mask(crc32c(data))))
    return count


def record_places(path: Path) -> np.ndarray:
    """Where each record's data begin and how long they are, without reading them: int64 [records, 2].

    Raises:
        UserError: a length fails its check, or goes beyond the file.
    """
    places: list[tuple[int, int]] = []
    position = 0
    with plain_file(path) as file:
        end = os.fstat(file.fileno()).st_size
        while position < end:
            file.seek(position)
            header = file.read(HEADER.size)
            length, check = HEADER.unpack(header) if len(header) == HEADER.size else (0, 0)
            start = position + HEADER.size
            if unmask(check) != crc32c(header[:8]) or start + length + FOOTER.size > end:
                raise UserError(
                    f"record {len(places)} at byte {position} is damaged or cut off",
                    fix="write or copy the file again",
                    file=path,
                )
            places.append((start, length))
            position = start + length + FOOTER.size
    return np.array(places, np.int64).reshape(-1, 2)


def read_record(path: Path, start: int, length: int) -> bytes:
    """The data of one record, at a place of `record_places`.

    Raises:
        UserError: they fail their check.
    """
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(length)
        footer = file.read(FOOTER.size)
    if len(footer) < FOOTER.size or unmask(FOOTER.unpack(footer)[0]) != crc32c(data):
        raise UserError(
            f"the record at byte {start} is damaged", fix="write or copy the file again", file=path
        )
    return data


def encode_example(features: Mapping[str, Value]) -> bytes:
    """A tf.train.Example of these features, one value each, in their order."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, int):
            values = _field(INT64_LIST, _field(1, _varint(value)))
        else:
            values = _field(BYTES_LIST, _field(1, value))
        entries += _field(1, _field(1, name.encode()) + _field(2, values))
    return _field(1, entries)


def decode_example(data: bytes) -> Example:
    """The first value of each feature that holds bytes or integers.

    Raises:
        UserError: not such a message.
    """
    features: Example = {}
    for entry in wire.sub_messages(wire.message(wire.sub_message(wire.message(memoryview(data)), 1)), 1):
        pair = wire.message(entry)
        found = wire.message(wire.sub_message(pair, 2))
        if BYTES_LIST in found:
            values = wire.sub_messages(wire.message(wire.sub_message(found, BYTES_LIST)), 1)
            features.update({wire.text(pair.get(1, [])): bytes(value) for value in values[:1]})
        elif INT64_LIST in found:
            numbers = wire.varints(wire.message(wire.sub_message(found, INT64_LIST)).get(1, []))
            features.update({wire.text(pair.get(1, [])): wire.signed(number) for number in numbers[:1]})
    return features


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | wire.BYTES) + _varint(len(data)) + data
