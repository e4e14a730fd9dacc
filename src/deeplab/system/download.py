"""Weights by address: downloaded once, resumed after a break, checked, kept in a cache folder.

A break leaves `NAME.part` beside the place of the file; the next call asks the server for the rest, and only
if the file there is still the same (RFC 9110: Range and If-Range with the server's ETag or date). The file
appears under its name when it is whole. Checksums: given, at the end of the address (`#sha256=...`), or the
first digits in the file's name, as torchvision and mmsegmentation publish them (`resnet50-0676ba61.pth`).
Needs requests and filelock (extra `download`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

from deeplab.errors import UserError, require
from deeplab.system.cache import ANOTHER_CACHE, cache_folder
from deeplab.system.files.content import recognise
from deeplab.system.reading import sha256_of
from deeplab.system.writing import cannot_write, put_in_place

CHUNK_BYTES = 1 << 16
HEAD_BYTES = 4096
CONNECT_SECONDS, READ_SECONDS = 10, 60
TRIES = 3
BY_HAND = "without a network, download it elsewhere and give the file's path instead of the address"
Progress = Callable[[int, int | None], None]


def is_address(source: str) -> bool:
    """Whether `source` is something to download: http:// or https://."""
    return source.startswith(("http://", "https://"))


def fetch(
    address: str,
    *,
    sha256: str | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The file at `address`, from the cache or downloaded into it.

    Args:
        address: http or https; may end in `#sha256=HEX`.
        sha256: hex digits, all 64 or the first ones.
        folder: in place of `cache_folder()`.
        progress: is told the bytes that are there and those of the whole file (None if it does not say).

    Raises:
        UserError: the extra `download` is not installed, no connection, an answer other than the file (a web
            page in its place among them), a file that is cut short or has another checksum; each says what to
            do, and none leaves a file that the next call would take.
    """
    address, fragment = urldefrag(address)
    name = unquote(urlsplit(address).path).rpartition("/")[2]
    if not is_address(address) or not name or name.startswith("."):
        raise UserError(f"{address} is not the http(s) address of a file; give one, or a path")
    expected = _checked(sha256 or fragment.removeprefix("sha256=")) or _digits_in(name)
    place = (folder or cache_folder()) / hashlib.sha256(address.encode()).hexdigest()[:16]
    file = place / name
    try:
        place.mkdir(parents=True, exist_ok=True)
        with require("filelock", extra="download").FileLock(place / "lock"):
            if not file.is_file() or (expected and not sha256_of(file).startswith(expected)):
                part = _download(address, place / f"{name}.part", progress)
                _check(part, expected, address)
                put_in_place(part, file)
    except OSError as error:
        raise cannot_write(file, error, ANOTHER_CACHE) from error
    return file


def _checked(sha256: str) -> str:
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{6,64}", sha256):
        raise UserError(f"{sha256!r} is no sha256; give its 64 hexadecimal digits, or at least the first 6")
    return sha256.lower()


def _digits_in(name: str) -> str:
    found = re.search(r"-([0-9a-f]{8,64})\.[a-z0-9.]+$", name)
    # digits alone are a date more often than a checksum
    return found[1] if found and not found[1].isdigit() else ""


def _check(part: Path, expected: str, address: str) -> None:
    found = sha256_of(part)
    if not found.startswith(expected):
        part.unlink()
        raise UserError(
            f"{address}: the file's sha256 is {found}, expected {expected}; it was deleted. Try again; if it "
            "comes again, the file was changed at its source"
        )
    with part.open("rb") as file:
        seen = recognise(file.read(HEAD_BYTES))
    if "HTML" in seen.name:
        part.unlink()
        raise UserError(
            f"{address}: this seems to be {seen.name}; it was deleted", fix=f"{seen.fix}, and give its path"
        )


def _download(address: str, part: Path, progress: Progress | None) -> Path:
    requests = require("requests", extra="download")
    tries = TRIES
    while True:
        before = _size(part)
        try:
            _continue(requests, address, part, progress)
            return part
        except requests.exceptions.RequestException as error:
            tries -= 1
            # a connection that brings bytes before it breaks is worth another try
            if not tries or _size(part) <= before:
                raise UserError(_in_words(address, error, part)) from error


def _continue(requests: Any, address: str, part: Path, progress: Progress | None) -> None:
    """Fetch what `part` still lacks; all of it if the server's file is not the one that was begun."""
    done, validator, headers = _size(part), _validator(part), {"Accept-Encoding": "identity"}
    resuming = bool(done and validator)
    if resuming:
        headers |= {"Range": f"bytes={done}-", "If-Range": validator}
    with requests.get(
        address, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)
    ) as answer:
        status, sent = answer.status_code, answer.headers.get("Content-Range", "")
        if resuming and status in (206, 416) and not sent.startswith(f"bytes {done}-"):
            _note(part).unlink()
            # nothing lies behind a file that is whole; any other answer is not about what was begun
            if sent != f"bytes */{done}":
                _continue(requests, address, part, progress)
            return
        answer.raise_for_status()
        encoded = "Content-Encoding" in answer.headers
        validator = "" if encoded else answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        _note(part).write_text(validator, encoding="utf-8")
        done = done if resuming and status == 206 else 0
        length = None if encoded else answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if done else "wb") as stream:
            for chunk in answer.iter_content(CHUNK_BYTES):
                stream.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    _note(part).unlink()


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _validator(part: Path) -> str:
    """What the server called the version of the file that was begun; '' where it cannot be resumed."""
    return _note(part).read_text(encoding="utf-8") if _note(part).is_file() else ""


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _in_words(address: str, error: Exception, part: Path) -> str:
    answer = getattr(error, "response", None)
    if answer is not None:
        found = f"the server answers {answer.status_code} {answer.reason}"
        return f"{address}: {found}; check the address; {BY_HAND}"
    done = _size(part) if _validator(part) else 0
    kept = f"; {done:,} bytes are kept, the same command goes on from there" if done else ""
    return f"{address} cannot be downloaded ({error}){kept}; {BY_HAND}"
