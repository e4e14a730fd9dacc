"""What is to be labelled, here or in stores: photos one by one, and shards whose photos nobody lists beforehand.

A shard's photos are called SHARD.tar::MEMBER and SHARD.parquet::ROW. What a shard is missing or broken for is said
once, under its own name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from deeplab.data.layouts.tar_shards import MASKS, Member, samples_in
from deeplab.errors import UserError, refuse_outside, require
from deeplab.imaging.photos import PHOTO_SUFFIXES, find_photos
from deeplab.system.reading import LARGEST, foreign, read_bytes
from deeplab.system.stores import Missing, address_of, files_at, opened_file, read_addresses

TAR, PARQUET, LIST = ".tar", ".parquet", ".txt"
SUFFIXES = PHOTO_SUFFIXES | {TAR, PARQUET}
# of a Parquet file with several columns of bytes
IMAGE_COLUMNS = ("image", "photo", "img", "jpg", "jpeg", "png", "bytes", "content", "data")
ROWS = 32
# addresses of photos, or the one of a shard of them
Part = tuple[str, ...]
Content = Path | bytes | UserError


@dataclass
class Photos:
    """Photos of a part, to be read a few at a time in ascending order.

    Attributes:
        names: unique ones, from which each can be found.
        read: of their numbers, each photo's file, its bytes, or why there is none; raises UserError where a store does
            not answer, which is no fault of a photo.
    """

    names: Sequence[str]
    read: Callable[[Sequence[int]], Sequence[Content]]
    files: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def none(cls, name: str, reason: UserError) -> Photos:
        """A shard that cannot be opened, as a photo that cannot be read."""
        return cls([name], lambda numbers: [reason])


def find_inputs(sources: Sequence[str], *, beside: str) -> list[str]:
    """Addresses of the photos and shards that files, folders, globs, lists and addresses of stores stand for.

    A list is a .txt file, here or in a store, with a path or an address a line; paths begin at the list's folder. Its
    lines are taken as they are, and looked for when it is their turn.

    Args:
        sources: in the user's words.
        beside: an address; what lies in that folder is left out.

    Returns:
        each once, in the order of the sources.

    Raises:
        UserError: nothing given, a source that stands for nothing, or a store that does not answer.
    """
    found: dict[str, None] = {}
    for source in sources:
        found.update(dict.fromkeys(_addresses(source)))
    inputs = [each for each in found if not each.startswith(f"{beside.rstrip('/')}/")]
    if not inputs:
        raise UserError(
            "no photos given" if not found else f"all photos found lie inside the output folder {beside}",
            fix="name photos, folders, lists or shards" if not found else "give another with -o",
        )
    return inputs


def _addresses(source: str) -> Iterable[str]:
    address = address_of(source)
    if not source.lower().endswith(LIST):
        if address is not None:
            return files_at(address, SUFFIXES)
        return (os.path.abspath(photo) for photo in find_photos(source, SUFFIXES))
    place = address or os.path.abspath(os.path.expanduser(source))
    content = read_addresses([place])[0] if address else _local_list(place)
    if isinstance(content, Missing):
        raise content
    lines = [os.fsdecode(line.strip()) for line in content.removeprefix(b"\xef\xbb\xbf").splitlines()]
    folder = place.rpartition("/")[0]
    with foreign(place, "is no list of photos", fix="write a path or an address a line"):
        listed = [address_of(line) or _joined(folder, line) for line in lines if line]
        if not listed:
            raise UserError("is an empty list", fix="write a path or an address a line")
        if any("\0" in each for each in listed):
            raise UserError("holds a zero byte, which no path has", fix="write a path or an address a line")
    return listed


def _local_list(path: str) -> bytes:
    with foreign(path):
        return read_bytes(path, largest=LARGEST)


def _joined(folder: str, line: str) -> str:
    if address_of(folder) is None:
        return os.path.abspath(os.path.join(folder, os.path.expanduser(line)))
    return f"{folder}/{line}"


def parts_of(inputs: Sequence[str], *, size: int) -> list[Part]:
    """Shards as they are, each a part of its own; photos between them in parts of `size`.

    Raises:
        UserError: no such size.
    """
    refuse_outside(1, 1_000_000, __shard_size=size)
    parts: list[Part] = []
    few: list[str] = []
    for address in inputs:
        if is_shard(address):
            parts.append((address,))
            continue
        few.append(address)
        if len(few) == size:
            parts.append(tuple(few))
            few = []
    return [*parts, tuple(few)] if few else parts


def is_shard(address: str) -> bool:
    """Whether it holds photos, and is none."""
    return address.lower().endswith((TAR, PARQUET))


def digest_of(parts: Iterable[Part]) -> str:
    """Equal for equal parts alone."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        for address in part:
            digest.update(os.fsencode(address) + b"\n")
        digest.update(b"\n")
    return digest.hexdigest()


def open_part(part: Part) -> Photos:
    """The photos of a part; close its `files` when done.

    Raises:
        UserError: a store does not answer, or the extra `parquet` is not installed.
    """
    if not is_shard(part[0]):
        return Photos(part, lambda numbers: _single([part[number] for number in numbers]))
    address, files = part[0], ExitStack()
    try:
        with foreign(address):
            file = files.enter_context(opened_file(address))
    except Missing as error:
        return Photos.none(address, error)
    except UserError as error:
        if address_of(address) is not None:
            raise
        return Photos.none(address, error)
    open_shard = _tar if address.lower().endswith(TAR) else _parquet
    if open_shard is _parquet:
        require("pyarrow.parquet", extra="parquet")
    try:
        photos = open_shard(address, file)
        if not photos.names:
            raise UserError("holds no photo", fix="leave it out, or write it again", file=address)
    except UserError as error:
        files.close()
        return Photos.none(address, error)
    photos.files = files
    return photos


def _single(addresses: list[str]) -> list[Content]:
    remote = [each for each in addresses if address_of(each) is not None]
    # those of a store are asked for together
    found: dict[str, Content] = {}
    for store in {_store_of(each) for each in remote}:
        few = [each for each in remote if _store_of(each) == store]
        found.update(zip(few, read_addresses(few), strict=True))
    return [found.get(each, Path(each)) for each in addresses]


def _store_of(address: str) -> str:
    """The scheme, and the host or account that is asked."""
    return "/".join(address.split("/", 3)[:3])


def _tar(address: str, file: BinaryIO) -> Photos:
    members = [member for sample in samples_in(file, address).values() for member in _photos_of(sample)]

    def read(numbers: Sequence[int]) -> list[Content]:
        contents: list[Content] = []
        for member in (members[number] for number in numbers):
            file.seek(member.start)
            contents.append(file.read(member.size))
        return contents

    return Photos([f"{address}::{member.name}" for member in members], read)


def _photos_of(sample: dict[str, Member]) -> list[Member]:
    """Pictures of a sample of WebDataset, but its mask."""
    pictures = {
        ending: member
        for ending, member in sample.items()
        if PurePosixPath(f"x.{ending}").suffix in PHOTO_SUFFIXES
    }
    mask = next((ending for ending in MASKS if ending in pictures), None)
    # a .png alone is the photo
    if mask is not None and (mask != MASKS[-1] or len(pictures) > 1):
        del pictures[mask]
    return list(pictures.values())


def _parquet(address: str, file: BinaryIO) -> Photos:
    parquet: Any = require("pyarrow.parquet", extra="parquet")
    with foreign(address, "cannot be read as Parquet", fix="write or fetch it again"):
        table = parquet.ParquetFile(file)
        column = _image_column(table.schema_arrow)
        names = [f"{address}::{row}" for row in range(table.metadata.num_rows)]
    rows = _rows(table, column, names)

    def read(numbers: Sequence[int]) -> list[Content]:
        wanted, contents = set(numbers), list[Content]()
        while len(contents) < len(wanted):
            row, content = next(rows)
            if row in wanted:
                contents.append(content)
        return contents

    return Photos(names, read)


def _rows(table: Any, column: str, names: list[str]) -> Iterator[tuple[int, Content]]:
    """All rows that the file says it has; of those that cannot be read, why."""
    row, again = 0, "write or fetch it again"
    reason = UserError("has fewer rows than it says", fix=again)
    try:
        with foreign(names[0].rpartition("::")[0], "cannot be read as Parquet", fix=again):
            for batch in table.iter_batches(batch_size=ROWS, columns=[column]):
                for value in batch.column(0).to_pylist():
                    content = value.get("bytes") if isinstance(value, dict) else value
                    nothing = UserError("the row holds no bytes of a photo", file=names[row])
                    yield row, nothing if content is None else content
                    row += 1
    except UserError as error:
        reason = error
    for rest in range(row, len(names)):
        yield rest, reason.within(names[rest])


def _image_column(schema: Any) -> str:
    """Of the photos' bytes; a column of structs with `bytes` is one, as Hugging Face writes it."""
    types: Any = require("pyarrow", extra="parquet").types

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(each.name == "bytes" and holds_bytes(each.type) for each in kind)
        return any(
            of_bytes(kind)
            for of_bytes in (
                types.is_binary,
                types.is_large_binary,
                types.is_binary_view,
                types.is_fixed_size_binary,
            )
        )

    found = [each.name for each in schema if holds_bytes(each.type)]
    named = [name for name in IMAGE_COLUMNS if name in found]
    if len(found) != 1 and not named:
        what = f"several columns of bytes, {', '.join(found)}" if found else "no column of bytes"
        raise UserError(
            f"has {what}, which are to be photos; its columns: {', '.join(schema.names)}",
            fix="call the one with whole JPEG or PNG files image",
        )
    return named[0] if len(found) > 1 else found[0]
