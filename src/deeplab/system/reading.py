"""Files that others made, read within limits: what they claim is compared with what is there, before it is allocated.

What is no plain file is refused unread, as a pipe would be waited for and a device never ends. Whatever a reader
stumbles over ends in one `UserError` that names the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import Any, BinaryIO, cast
from zipfile import ZipFile

from deeplab.errors import UserError

BROKEN = "this is damaged or cut short"
DAMAGED = "fetch it again, or write it again where it was made"
# published weights end at 1.1 GB
LARGEST = 8 << 30
# of a text with settings; the largest that this package writes is a hundredth of it
LARGEST_TEXT = 1 << 20
LARGEST_INTEGER = 1 << 63
# that a compressed part of a small file may unpack to; of a larger file, so many times its size
SMALL, RATIO = 16 << 20, 20
SHOWN = 240


@contextmanager
def foreign(path: str | os.PathLike[str], what: str = BROKEN, *, fix: str = DAMAGED) -> Iterator[None]:
    """A block that reads a file of somebody's: whatever goes wrong in it is the file's fault.

    Args:
        path: the file, for the message.
        what: what is wrong with it then.
        fix: what its owner can do.

    Raises:
        UserError: in the place of every exception, with the file where it named none.
    """
    try:
        yield
    except UserError as error:
        raise error.within(path) from error.__cause__
    except Exception as error:
        # decoders call what they cannot decode an OSError, too, of no number
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(
                f"cannot be read ({error.strerror})",
                fix="name a file that is there and can be read",
                file=path,
            ) from error
        said = f"{type(error).__name__}: {shown(error)}".removesuffix(": ")
        raise UserError(f"{what} ({said})", fix=fix, file=path) from error


def shown(value: object) -> str:
    """A foreign value as Python writes it, or what an error says, short enough for a sentence."""
    try:
        return cut(str(value) if isinstance(value, BaseException) else repr(value))
    except (RecursionError, ValueError):
        # nested too deeply, or a number of more digits than Python prints
        return f"a {type(value).__name__} too large to show"


def cut(text: str) -> str:
    """A text on one line, cut off where a sentence has to end."""
    line = " ".join(text[: 2 * SHOWN].split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."


@contextmanager
def plain_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The file at `path`, open for reading bytes.

    Raises:
        UserError: a folder, a pipe or a device, which is not waited for.
        OSError: it cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        found = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise UserError(f"this is {found}", fix="give the path of a file", file=path)
    with open(handle, "rb") as file:
        yield file


def read_bytes(path: str | os.PathLike[str], *, largest: int = LARGEST) -> bytes:
    """All of a plain file.

    Raises:
        UserError: it is no plain file, or has more than `largest` bytes.
        OSError: it cannot be read.
    """
    with plain_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise UserError(f"has {size} bytes", allowed=f"up to {largest} in such a file", file=path)
        # all that it is asked for is allocated first
        return file.read(size)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Of all bytes of a plain file, however large, in hexadecimal digits; raises as `plain_file`."""
    with plain_file(path) as file:
        # BinaryIO has no readinto
        return hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()


def beginning(path: str | os.PathLike[str], size: int) -> bytes:
    """The first bytes of a plain file; none of what is no such file, or cannot be read."""
    try:
        with plain_file(path) as file:
            return file.read(size)
    except (OSError, UserError):
        return b""


def read_text(path: str | os.PathLike[str], *, largest: int = LARGEST_TEXT) -> str:
    """A plain file as UTF-8; raises as `read_bytes`, and UnicodeDecodeError."""
    return read_bytes(path, largest=largest).decode("utf-8")


def parse_json(text: str | bytes) -> Any:
    """JSON of settings: no NaN, no infinity, no integer beyond 64 bits, no half characters, up to `LARGEST_TEXT`.

    Raises:
        UserError: what is not allowed.
        ValueError, RecursionError: no JSON, or nested too deeply.
    """
    if len(text) > LARGEST_TEXT:
        raise UserError(f"a description of {len(text)} bytes", allowed=f"up to {LARGEST_TEXT}")
    values = json.loads(text, parse_constant=_refuse_constant, parse_int=_integer)
    # halves of characters, which no terminal and no file takes
    json.dumps(values, ensure_ascii=False).encode()
    return values


def inflated(data: bytes, what: str) -> bytes:
    """What a zlib stream holds, called `what` in messages.

    Raises:
        UserError: it unpacks to more than such a stream can hold.
        zlib.error: it is damaged.
    """
    allowed, stream = max(SMALL, RATIO * len(data)), zlib.decompressobj()
    found = stream.decompress(data, allowed)
    if not stream.eof and stream.unconsumed_tail:
        raise UserError(f"{what} unpacks to more than {allowed} bytes, from {len(data)}")
    return found


def read_member(archive: ZipFile, name: str, *, size: int) -> bytes:
    """A file in a zip archive of `size` bytes.

    Raises:
        UserError: it unpacks to more than such an archive can hold.
        Exception: whatever `zipfile` raises for damaged archives.
    """
    allowed = max(SMALL, RATIO * size)
    with archive.open(name) as file:
        data = file.read(allowed + 1)
    if len(data) > allowed:
        raise UserError(f"its {name} unpacks to more than {allowed} bytes, from {size}")
    return data


@contextmanager
def zip_archive(path: str | os.PathLike[str]) -> Iterator[ZipFile]:
    """The plain file at `path` as a zip archive.

    Raises:
        UserError: it is no plain file.
        Exception: whatever `zipfile` raises for damaged archives.
    """
    with plain_file(path) as file, ZipFile(file) as archive:
        yield archive


def _refuse_constant(name: str) -> float:
    raise UserError(f"{name} where a number should be")


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) < 21 else LARGEST_INTEGER
    if not -LARGEST_INTEGER <= value < LARGEST_INTEGER:
        raise UserError(f"an integer of {len(digits.lstrip('-'))} digits", allowed="up to 64 bits")
    return value
