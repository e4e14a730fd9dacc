"""Folders and files by address, here or in a store: s3://BUCKET/KEY and what else fsspec opens (extra `stores`).

An address is an absolute path, or a scheme of `SCHEMES` and what follows. What is written appears whole or not at all:
here by a rename, in a store by one PUT of the final key.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from deeplab.errors import DISTRIBUTION, UserError, require
from deeplab.system.reading import shown
from deeplab.system.writing import cannot_write, whole_file

_OWN = f"pip install '{DISTRIBUTION}[stores]'"
SCHEMES = {
    "s3": _OWN,
    "gs": "pip install gcsfs",
    "az": "pip install adlfs",
    "abfs": "pip install adlfs",
    "hf": f"pip install '{DISTRIBUTION}[hub]'",
    "sftp": "pip install paramiko",
    "http": _OWN,
    "https": _OWN,
    "memory": "pip install fsspec",
}
"""What is opened, and what brings it; others, such as file:// and chains of them, are not followed in lists."""
WRITABLE = ("s3", "gs", "az", "abfs")
"""Stores in which a PUT shows a file whole or not at all."""
# two letters at least: a drive has one
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
_MAGIC = re.compile(r"[*?\[]")
# at once, of many small files
TOGETHER = 256
BLOCK = 1 << 24


def address_of(place: str | os.PathLike[str]) -> str | None:
    """The address in a store that somebody gave; None for a path. A `Path` of one has lost a slash, which comes back.

    Raises:
        UserError: no such kind of store.
    """
    text = os.fspath(place).replace("\\", "/") if isinstance(place, os.PathLike) else place
    found = _ADDRESS.match(text)
    if found is None:
        return None
    scheme, address = found[1].lower(), f"{found[1].lower()}://{text[found.end() :]}"
    if "::" in address:
        raise UserError("chains addresses with ::", fix="name what lies there alone", file=address)
    if scheme not in SCHEMES:
        raise UserError(
            "no address of a store that is known here",
            allowed=", ".join(f"{each}://" for each in SCHEMES if each != "memory"),
            fix="give the path alone" if scheme == "file" else "correct what stands before ://",
            file=text,
        )
    return address


@contextmanager
def asking(address: str) -> Iterator[None]:
    """A block that asks a store for what lies at an address.

    Raises:
        UserError: in the place of every exception, with what to do; `Missing` where nothing lies there.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise Missing(
            "is not there", fix="look at the names of the bucket and of what lies in it", file=address
        ) from error
    # whatever a store's client raises where it does not come through
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            # stores have no end
            raise cannot_write(Path(tempfile.gettempdir()), error, "set TMPDIR to a larger one") from error
        said = f"{type(error).__name__}: {shown(error)}".removesuffix(": ")
        what, fix = "the store does not answer", "look at the address, the network, and AWS_ENDPOINT_URL"
        if isinstance(error, PermissionError) or "credentials" in said.lower():
            what = "the store lets nobody in without credentials, or not with those that are set here"
            fix = (
                "aws configure, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role of the machine (other "
            )
            fix += "stores: their own), with the right to list, read and write there"
        raise UserError(f"{what} ({said})", fix=fix, file=address) from error


class Missing(UserError):
    """Nothing lies at an address."""


def files_at(address: str, suffixes: Iterable[str]) -> list[str]:
    """Addresses of the file, of those below the folder, or of those that the glob stands for, sorted.

    Args:
        address: in a store; folders that a glob matches are walked, as a shell would hand them on.
        suffixes: of the files of folders and globs, in small letters; hidden ones are left out.

    Raises:
        UserError: nothing such lies there, or the store does not answer.
    """
    wanted = tuple(suffixes)
    if address.startswith("http"):
        return [address]
    store, path = _opened(address)
    with asking(address):
        store.invalidate_cache()
        # first: a name may have brackets
        if not address.endswith("/") and store.isfile(path):
            return [store.unstrip_protocol(path)]
        found = _matched(store, path, address) if _MAGIC.search(path) else store.find(path)
    base = len(_MAGIC.split(path)[0])
    files = [
        store.unstrip_protocol(each)
        for each in sorted(found)
        if each.lower().endswith(wanted) and "/." not in f"/{each[base:].lstrip('/')}"
    ]
    if not files:
        raise Missing(
            f"no photo found there; looked for names ending in {' '.join(sorted(wanted))}",
            fix="look at the names of the bucket and of what lies in it",
            file=address,
        )
    return files


def _matched(store: Any, pattern: str, address: str) -> set[str]:
    """Files that a glob matches, and those below the folders that it matches."""
    found, walked = set[str](), set[str]()
    # the slash at the end, which matches folders alone, is no part of the path
    matches = store.glob(pattern + "/" * address.endswith("/"), detail=True)
    for match in sorted(matches):
        if matches[match]["type"] != "directory":
            found.add(match)
        elif walked.isdisjoint(map(str, PurePosixPath(match).parents)):
            walked.add(match)
            found.update(store.find(match))
    return found


def read_addresses(addresses: Sequence[str]) -> list[bytes | Missing]:
    """What lies there, asked for all at once; all of one store.

    Raises:
        UserError: the store does not answer.
    """
    store, _ = _opened(addresses[0])
    paths = [_opened(each)[1] for each in addresses]
    contents: list[bytes | Missing] = []
    with asking(addresses[0]):
        answers = store.cat_ranges(paths, None, None, on_error="return")
    for address, answer in zip(addresses, answers, strict=True):
        try:
            with asking(address):
                if isinstance(answer, Exception):
                    raise answer
            contents.append(answer)
        except Missing as error:
            contents.append(error)
    return contents


@contextmanager
def opened_file(address: str) -> Iterator[BinaryIO]:
    """A file to seek and read in; of a store's, a copy that goes with the block, or with the process.

    Raises:
        UserError: the store does not answer, or nothing lies there.
        OSError: a file here cannot be read.
    """
    if address_of(address) is None:
        with open(address, "rb") as here:
            yield here
        return
    with tempfile.TemporaryFile() as copy:
        copy_to(address, copy)
        copy.seek(0)
        yield copy


def copy_to(address: str, file: IO[bytes]) -> None:
    """Write what lies at a store's address to a file.

    Raises:
        UserError: the store does not answer, or nothing lies there.
    """
    store, path = _opened(address)
    with asking(address), store.open(path, "rb", block_size=BLOCK) as there:
        shutil.copyfileobj(there, file, BLOCK)


@dataclass(frozen=True)
class Folder:
    """A folder to write results to, and to look at what is there; names in it have `/` between them.

    Attributes:
        address: of it.

    Raises:
        UserError: of its methods, where files cannot be read or written.
    """

    address: str

    @property
    def is_remote(self) -> bool:
        """Whether it lies in a store."""
        return address_of(self.address) is not None

    def place(self, name: str) -> str:
        """The address of a file in it."""
        return f"{self.address.rstrip('/')}/{name}"

    def names(self, below: str = "") -> set[str]:
        """Of the files in it, or in a folder of it."""
        place = self.place(below) if below else self.address
        if not self.is_remote:
            try:
                return {entry.name for entry in os.scandir(place) if not entry.is_dir()}
            except FileNotFoundError:
                return set()
            except OSError as error:
                raise cannot_write(Path(self.address), error) from error
        store, path = _opened(place)
        with asking(place):
            # by other processes, since the last look
            store.invalidate_cache()
            try:
                found = store.ls(path, detail=True)
            except FileNotFoundError:
                return set()
        return {each["name"].rpartition("/")[2] for each in found if each["type"] == "file"}

    def read(self, names: Sequence[str]) -> Iterator[bytes]:
        """Contents of files in it, in order; of a store's, many at once."""
        for start in range(0, len(names), TOGETHER):
            for content in self._contents([self.place(name) for name in names[start : start + TOGETHER]]):
                if isinstance(content, UserError):
                    raise content
                yield content

    def _contents(self, places: list[str]) -> Iterable[bytes | UserError]:
        if self.is_remote:
            return read_addresses(places)
        return (
            Path(place).read_bytes() if os.path.isfile(place) else Missing("is not there", file=place)
            for place in places
        )

    @contextmanager
    def whole(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write to, which is there once the block has ended without an error."""
        place = self.place(name)
        if not self.is_remote:
            with whole_file(place) as file:
                yield file
            return
        with tempfile.NamedTemporaryFile() as copy:
            yield copy
            copy.flush()
            store, path = _opened(place)
            with asking(place):
                store.put_file(copy.name, path)

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""
        with self.whole(name) as file:
            file.write(content)

    def mark(self, name: str) -> None:
        """Write an empty file that only has to outlive the process, not the machine."""
        if self.is_remote:
            self.write(name, b"")
            return
        place = Path(self.place(name))
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        except OSError as error:
            raise cannot_write(place, error) from error

    def remove(self, names: Iterable[str], *, folder: bool = False) -> None:
        """Remove files, or folders with all that is in them, which may be gone already."""
        places = [self.place(name) for name in names]
        if not self.is_remote:
            for place in places:
                if folder:
                    shutil.rmtree(place, ignore_errors=True)
                else:
                    try:
                        Path(place).unlink(missing_ok=True)
                    except OSError as error:
                        raise cannot_write(Path(place), error) from error
            return
        for start in range(0, len(places), TOGETHER):
            few = places[start : start + TOGETHER]
            store, _ = _opened(few[0])
            with asking(few[0]):
                try:
                    store.rm([_opened(each)[1] for each in few], recursive=folder)
                except FileNotFoundError:
                    continue


def _opened(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path there."""
    fsspec: Any = require("fsspec", extra="stores")
    scheme = address.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise UserError(
            f"{scheme}:// needs a Python module that is not installed ({error})",
            fix=SCHEMES[scheme],
            file=address,
        ) from error
