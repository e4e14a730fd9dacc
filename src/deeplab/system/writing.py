"""Files that appear whole or not at all, and one sentence where a file cannot be written.

A file is written beside its place under a hidden name of its own, brought to the disk, and renamed. So a reader, a
crash, Ctrl-C or a full disk meets the file as it was or as it is to be, nothing earlier is lost, and no half is left.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from deeplab.errors import UserError

ELSEWHERE = "name another place"
ENDING = ".tmp"
NO_UTF8 = "backslashreplace"
LOCK_NAME = ".lock"


@contextmanager
def whole_file(
    path: str | os.PathLike[str], *, before: Path | None = None, otherwise: str = ELSEWHERE
) -> Iterator[BinaryIO]:
    """A file to write bytes to, which is at `path` once the block has ended without an error.

    Args:
        path: missing folders are made; an existing file, or a link to one, is replaced.
        before: where the file that is replaced is kept.
        otherwise: what the user can do beside mending the place, for the message.

    Raises:
        UserError: the file cannot be written there. Errors about files other than this one pass.
    """
    path = Path(path)
    beside = path.parent / f".{uuid.uuid4().hex}{ENDING}"
    try:
        _refuse_what_is_no_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if before is not None and path.exists():
            _keep(path, before)
        os.replace(beside, path)
        _settle(path.parent)
    except OSError as error:
        if error.filename is not None and Path(str(error.filename)) not in (path, beside, *path.parents):
            raise
        raise cannot_write(path, error, otherwise) from error
    finally:
        with suppress(OSError):
            beside.unlink()


def write_whole(
    path: str | os.PathLike[str], content: str | bytes | Path, *, otherwise: str = ELSEWHERE
) -> Path:
    """Write text (as UTF-8), bytes, or a copy of the file at a path; otherwise as `whole_file`.

    Bytes of a file's name that are no UTF-8 are written as \\udcff, as JSON has them.

    Returns:
        the path written.
    """
    with whole_file(path, otherwise=otherwise) as file:
        if isinstance(content, Path):
            with content.open("rb") as source:
                shutil.copyfileobj(source, file)
        else:
            file.write(content.encode(errors=NO_UTF8) if isinstance(content, str) else content)
    return Path(path)


@contextmanager
def whole_folder(path: Path, *, otherwise: str = ELSEWHERE) -> Iterator[Path]:
    """An empty folder to fill, which is at `path` once the block has ended without an error.

    Where another process was quicker, its folder stays. Errors as for `whole_file`.
    """
    beside = path.parent / f".{uuid.uuid4().hex}{ENDING}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        yield beside
        for file in beside.iterdir():
            _settle(file)
        if not path.exists():
            os.rename(beside, path)
        _settle(path.parent)
    except OSError as error:
        if not path.is_dir():
            raise cannot_write(path, error, otherwise) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


class Appended:
    """A file that grows piece by piece, each handed to the system at once."""

    def __init__(self, path: Path) -> None:
        """Open it, made if missing.

        Raises:
            UserError: it cannot be written.
        """
        self._path = path
        try:
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - held until close
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, content: str | bytes) -> None:
        """Add text, as UTF-8, or bytes.

        Raises:
            UserError: it cannot be written; part of it may be.
        """
        rest = memoryview(content.encode(errors=NO_UTF8) if isinstance(content, str) else content)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def hold_folder(folder: Path, doing: str) -> Iterator[None]:
    """Keep other processes from writing into `folder`, which is made if missing; ends with this process.

    Args:
        folder: what killed processes left half written in it is removed.
        doing: what this one does, such as "training into".

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_what_is_no_file(folder / LOCK_NAME)
        # where it is a link, the file that it leads to keeps what it holds
        lock = (folder / LOCK_NAME).open("a")
    except OSError as error:
        raise cannot_write(folder / LOCK_NAME, error, "name another folder") from error
    with lock as file:
        try:
            # of this process alone: a lock by flock would live on in data workers that survive a kill
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"another process is {doing} {folder}",
                fix="wait for it or stop it, or name another folder",
            ) from None
        except (ImportError, OSError):
            # Windows, and file systems without locks, do without
            pass
        remove_remains(folder)
        yield


def remove_remains(folder: Path) -> None:
    """Remove what killed processes left half written in `folder` and below, while no other writes there."""
    for remains in folder.rglob(f".*{ENDING}"):
        with suppress(OSError):
            remains.unlink()


def put_in_place(part: Path, path: Path) -> None:
    """Bring `part`, written beside `path` over several calls, to the disk and rename it.

    Raises:
        OSError: see `cannot_write`.
    """
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    _settle(path.parent)


def cannot_write(path: Path, error: OSError, otherwise: str = ELSEWHERE) -> UserError:
    """What to raise where `path`, or the folder it lies in, cannot be written."""
    reason, fix = str(error.strerror or error), ""
    places = (path, *path.parents) if error.errno in (errno.EEXIST, errno.ENOTDIR) else path.parents
    blocking = next((each for each in places if each.exists() and not each.is_dir()), None)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason, fix = "the disk is full", "free some space there"
    elif error.errno == errno.EROFS:
        reason, fix = "its file system is read-only", "mount it to be written"
    elif blocking is not None:
        reason, fix = f"{blocking} is a file, not a folder", "move that file away"
    elif error.errno in (errno.EACCES, errno.EPERM):
        reason, fix = "no permission to write there", f"make {path.parent} writable"
    return UserError(
        f"cannot be written ({reason})", fix=f"{fix}, or {otherwise}" if fix else otherwise, file=path
    )


def _keep(path: Path, before: Path) -> None:
    """Give the file at `path` a second name, so that at no time it has none."""
    beside = path.parent / f".{uuid.uuid4().hex}{ENDING}"
    try:
        os.link(path, beside)
    except OSError:
        # a file system without links
        os.replace(path, before)
        return
    try:
        os.replace(beside, before)
    finally:
        with suppress(OSError):
            beside.unlink()


def _refuse_what_is_no_file(path: Path) -> None:
    """See that a pipe or a device is not waited for, and no file put in its place.

    Raises:
        UserError: something else than a file is at `path`.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode):
        raise UserError("cannot be written (it is a folder)", fix="name a file", file=path)
    if not stat.S_ISREG(mode):
        raise UserError("cannot be written (it is a device or a pipe)", fix="name a file", file=path)


def _settle(path: Path) -> None:
    """Bring what lies there to the disk; not every system can do this with a folder, and none has to."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
