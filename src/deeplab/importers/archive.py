"""Archives (.tar.gz, .tar) unpacked for an import, with nothing trusted that they say about themselves.

Only plain files and folders inside the archive are taken. A name that leads out of the folder, a link, a
device, or more data than any published model has, is refused, and nothing is kept.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from deeplab.errors import UserError
from deeplab.system.files.content import describe
from deeplab.system.reading import RATIO, SMALL, foreign, plain_file

GZIP = b"\x1f\x8b"
USTAR = slice(257, 262)
HEAD_BYTES = 4096
# the largest archive of the reference's zoo unpacks to 1.1 GB in a handful of files
LARGEST = 4 << 30
MOST_FILES = 1000
FIX = "fetch the archive from its publisher again, or give the file with the weights alone"


def is_archive(head: bytes) -> bool:
    """Whether a file that begins with `head` is compressed by gzip, or a tar archive."""
    return head.startswith(GZIP) or head[USTAR] == b"ustar"


@contextmanager
def unpacked(archive: Path, *, largest: int = LARGEST) -> Iterator[Path]:
    """A folder with the archive's files, which is deleted in the end.

    Args:
        archive: a .tar.gz or .tar file.
        largest: bytes that it may unpack to.

    Raises:
        UserError: a damaged archive, or one with links, devices, names that lead out of it, or too much data.
    """
    with tempfile.TemporaryDirectory(prefix="deeplab-import-") as name:
        folder = Path(name)
        with foreign(archive, "this is no whole .tar.gz or .tar archive"), plain_file(archive) as file:
            try:
                _unpack(file, folder, min(largest, max(SMALL, RATIO * archive.stat().st_size)))
            except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise UserError(_explain(archive, error)) from None
            except OSError as error:
                raise UserError(f"cannot be unpacked ({error})") from error
        yield folder


def _explain(archive: Path, error: Exception) -> str:
    """Damaged, or a single file that was compressed on its own."""
    try:
        with gzip.open(archive) as file:
            head = file.read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error):
        head = b""
    if not head or head[USTAR] == b"ustar":
        return f"this is no whole .tar.gz or .tar archive ({error}); fetch it again"
    return f"this is no .tar.gz archive: it seems to be {describe(head)}, compressed; gunzip it and give what comes out"


class _Metered:
    """A stream that refuses to give more than `left` bytes."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile, left: int) -> None:
        self.stream = stream
        self.left = left
        self.limit = left

    def read(self, size: int) -> bytes:
        data = self.stream.read(min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise UserError(
                f"it unpacks to more than {self.limit / 2**30:.1f} GiB, which no known model does"
            )
        return data


def _unpack(file: BinaryIO, folder: Path, largest: int) -> None:
    compressed = file.read(len(GZIP)) == GZIP
    file.seek(0)
    stream = _Metered(gzip.GzipFile(fileobj=file) if compressed else file, largest)
    with tarfile.open(fileobj=stream, mode="r|") as members:
        for count, member in enumerate(members):
            if count >= MOST_FILES:
                raise UserError(f"it has more than {MOST_FILES} files, which no known model has")
            _check(member)
            content = members.extractfile(member)
            if content is None:
                continue
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            # a tar archive may state a size that it does not have, of zeros
            if member.issparse():
                raise UserError(f"its file {member.name!r} is stored with holes: not unpacked; {FIX}")
            with target.open("xb") as out:
                shutil.copyfileobj(content, out)


def _check(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name:
        raise UserError(
            f"its file {member.name!r} would lie outside the folder it is unpacked to: not unpacked; {FIX}"
        )
    if not (member.isreg() or member.isdir()):
        raise UserError(f"its file {member.name!r} is a link or a device: not unpacked; {FIX}")
