"""TensorFlow's V2 checkpoints ("tensor bundles") without TensorFlow: an index, and the numbers in shards.

PREFIX.index is a LevelDB table (blocks of key-value pairs with shared prefixes, footer with a magic number)
whose values are BundleEntryProto messages; PREFIX.data-00000-of-0000N hold the arrays. Formats: LevelDB's
table_format.md, TensorFlow's core/protobuf/tensor_bundle.proto. TensorFlow writes indexes uncompressed.
Every block of the index, and every array read, is compared with its stored CRC-32C.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab.errors import UserError
from deeplab.importers.tensorflow.graph import DTYPES, read_shape
from deeplab.system.files.crc32c import crc32c, unmask
from deeplab.system.files.protobuf_wire import message, read_varint, sub_message, varints

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER = 48
# of a name; each may begin with all of the one before
MOST_CHARACTERS = 4096
# compression type and checksum behind each block
TRAILER = 5
SUFFIX = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


class Entry(NamedTuple):
    """Where an array lies: dtype is TensorFlow's number, `checksum` masked; `sliced` if stored in parts."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    sliced: bool


@dataclass(frozen=True)
class Bundle:
    """An opened checkpoint: `prefix` is its path without suffix."""

    prefix: Path
    shards: int
    entries: dict[str, Entry]

    def read(self, name: str) -> np.ndarray:
        """The array called `name`.

        Raises:
            UserError: a damaged array, or one of a kind that weights never are.
        """
        entry = self.entries[name]
        if entry.sliced:
            raise UserError(
                f"{name} is stored in slices (a partitioned variable); save the checkpoint again without partitioning",
                file=f"{self.prefix}.index",
            )
        if entry.dtype not in DTYPES:
            raise UserError(
                f"{name} has type number {entry.dtype}; known: {sorted(DTYPES)}", file=f"{self.prefix}.index"
            )
        shard = self._shard(entry.shard)
        with shard.open("rb") as file:
            file.seek(entry.offset)
            data = file.read(entry.size)
        if crc32c(data) != unmask(entry.checksum):
            raise UserError(f"{name} does not match its checksum: the file is damaged", file=shard)
        return np.frombuffer(data, DTYPES[entry.dtype][0]).reshape(entry.shape).copy()

    def check_shards(self) -> None:
        """Raise UserError where a shard is missing or ends before an array that the index places in it.

        Also where an array's shape is not that of its bytes: networks are built by shapes before arrays are read.
        """
        ends: dict[int, int] = {}
        for name, entry in self.entries.items():
            size = (
                math.prod(entry.shape) * np.dtype(DTYPES[entry.dtype][0]).itemsize
                if entry.dtype in DTYPES
                else 0
            )
            if (
                entry.dtype in DTYPES
                and not entry.sliced
                and (size != entry.size or min(entry.shape, default=1) < 1)
            ):
                raise UserError(
                    f"{name} of shape {entry.shape} has {entry.size} bytes: damaged",
                    file=f"{self.prefix}.index",
                )
            ends[entry.shard] = max(ends.get(entry.shard, 0), entry.offset + entry.size)
        for shard, end in ends.items():
            path = self._shard(shard)
            try:
                size = path.stat().st_size
            except OSError as error:
                raise UserError(
                    f"cannot be read ({error.strerror}): a checkpoint is an .index file and its .data files, "
                    "side by side",
                    file=path,
                ) from error
            if size < end:
                raise UserError(
                    f"has {size} of at least {end} bytes: it is truncated, fetch it again", file=path
                )

    def _shard(self, number: int) -> Path:
        return Path(f"{self.prefix}.data-{number:05d}-of-{self.shards:05d}")


def is_index(head: bytes) -> bool:
    """Whether a file that begins with `head` is a checkpoint's index: first an empty key, and the header."""
    try:
        size, position = read_varint(memoryview(head), 2)
        header = message(memoryview(head)[position : position + size])
    except UserError:
        return False
    return head[:2] == b"\x00\x00" and set(header) <= {1, 2, 3} and isinstance(header.get(1, [b""])[0], int)


def index_of(path: Path) -> Path | None:
    """The index of the checkpoint that `path` is a part of, or the prefix of; None if there is none."""
    index = Path(SUFFIX.sub("", str(path)) + ".index")
    return index if index.is_file() else None


def read_bundle(index: Path) -> Bundle:
    """The checkpoint whose index is the file `index`.

    Raises:
        UserError: the file cannot be read, is truncated or damaged, or is no index; or a shard is missing or
            too short.
    """
    try:
        pairs = dict(_pairs(memoryview(index.read_bytes())))
        header = message(pairs.pop(b"", memoryview(b"")))
        shards, endianness = (varints(header.get(field, [0]))[-1] for field in (1, 2))
        entries = {bytes(key).decode(): _entry(value) for key, value in pairs.items()}
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", file=index) from error
    except UnicodeDecodeError:
        raise UserError("a name that is no text: the file is damaged", file=index) from None
    except UserError as error:
        raise error.within(index) from None
    if not shards or endianness:
        raise UserError("was written on a big-endian machine, or names no shards; save it again", file=index)
    bundle = Bundle(Path(str(index).removesuffix(".index")), shards, entries)
    bundle.check_shards()
    return bundle


def _entry(value: memoryview) -> Entry:
    found = message(value)
    numbers = {field: varints(found.get(field, [0]))[-1] for field in (1, 3, 4, 5)}
    checksum = int.from_bytes(bytes(sub_message(found, 6)), "little")
    shape = read_shape(sub_message(found, 2))
    return Entry(numbers[1], shape, numbers[3], numbers[4], numbers[5], checksum, 7 in found)


def _pairs(table: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    if len(table) < FOOTER or bytes(table[-len(MAGIC) :]) != MAGIC:
        raise UserError("this does not end like a checkpoint's index: it is truncated or of another kind")
    footer = table[-FOOTER:]
    # two handles: of a block of statistics, which is unused, and of the block that lists the data blocks
    _, position = read_varint(footer, 0)
    _, position = read_varint(footer, position)
    left = len(table)
    for _, handle in _block_pairs(_block(table, footer[position:])):
        block = _block(table, handle)
        left -= len(block)
        if left < 0:
            raise UserError("its blocks overlap: the file is damaged")
        yield from _block_pairs(block)


def _block(table: memoryview, handle: memoryview) -> memoryview:
    offset, position = read_varint(handle, 0)
    size, _ = read_varint(handle, position)
    if offset + size + TRAILER > len(table):
        raise UserError(f"a block of {size} bytes at {offset} goes beyond the file: it is truncated")
    checked = table[offset : offset + size + 1]
    stored = int.from_bytes(table[offset + size + 1 : offset + size + TRAILER], "little")
    if crc32c(checked) != unmask(stored):
        raise UserError("a block does not match its checksum: the file is damaged")
    if checked[size]:
        raise UserError("its blocks are compressed, which TensorFlow has not done since 1.2: save it again")
    return checked[:size]


def _block_pairs(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    if len(block) < 4:
        raise UserError("a block without restart points: the file is damaged")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    position, key = 0, b""
    while position < end:
        shared, position = read_varint(block, position)
        added, position = read_varint(block, position)
        size, position = read_varint(block, position)
        key = key[:shared] + bytes(block[position : position + added])
        position += added
        if len(key) > MOST_CHARACTERS:
            raise UserError(f"a name of {len(key)} characters: the file is damaged")
        yield key, block[position : position + size]
        position += size
    if position != max(end, 0):
        raise UserError("a block's pairs go beyond its end: the file is damaged")
