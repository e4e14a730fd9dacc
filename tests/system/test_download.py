"""Downloads from a server on this machine: whole, broken off and resumed, changed, wrong, unreachable."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from deeplab.cli.app import main
from deeplab.errors import UserError
from deeplab.system.cache import cache_folder
from deeplab.system.download import CHUNK_BYTES, fetch, is_address

pytest.importorskip("requests", reason="the extra download is not installed")
pytest.importorskip("filelock", reason="the extra download is not installed")

SECONDS = 20
# long enough to be written in several pieces
BODY = np.random.default_rng(0).integers(0, 256, 5 * CHUNK_BYTES + 17, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `body` at any path.

    Attributes:
        tag: the ETag, or nothing.
        break_after: bytes after which the connection is closed, once for each number in the list.
        ranges: whether Range is heeded.
        status: of every answer, if it is no file.
        asked: the Range header of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.tag, self.ranges, self.status = BODY, '"one"', True, 200
        self.break_after: list[int] = []
        self.asked: list[str | None] = []

    def address(self, name: str = "weights.pth") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/models/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = 0
        if wanted and self.server.ranges and self.headers.get("If-Range") == self.server.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = self.server.body[start:]
        status = 206 if start else self.server.status
        if start >= len(self.server.body):
            status, body = 416, b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if start:
            end = "*" if status == 416 else f"{start}-{len(self.server.body) - 1}"
            self.send_header("Content-Range", f"bytes {end}/{len(self.server.body)}")
        if self.server.tag:
            self.send_header("ETag", self.server.tag)
        self.end_headers()
        if self.server.break_after:
            body = body[: self.server.break_after.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the test's output."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join(SECONDS)


def test_a_file_comes_whole_and_once(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    address = server.address("resnet50%20v1.pth")
    file = fetch(address, folder=tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert (file.name, file.read_bytes()) == ("resnet50 v1.pth", BODY)
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert fetch(address, folder=tmp_path) == file
    assert server.asked == [None]
    assert sorted(path.name for path in file.parent.iterdir()) == ["lock", "resnet50 v1.pth"]


def test_a_break_is_resumed_within_one_call(server: Server, tmp_path: Path) -> None:
    server.break_after = [CHUNK_BYTES + 5, 2 * CHUNK_BYTES + 5]
    assert fetch(server.address(), folder=tmp_path, sha256=SHA256).read_bytes() == BODY
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in server.asked if asked]
    assert len(server.asked) == 3
    assert 0 < starts[0] < starts[1] < len(BODY)


def test_a_break_is_resumed_by_the_next_call(server: Server, tmp_path: Path) -> None:
    server.break_after = [CHUNK_BYTES + 5, 0]
    with pytest.raises(
        UserError, match=r"bytes are kept, the same command goes on from there.*file's path instead"
    ):
        fetch(server.address(), folder=tmp_path)
    assert not list(tmp_path.rglob("weights.pth"))
    kept = next(tmp_path.rglob("weights.pth.part")).stat().st_size
    assert kept >= CHUNK_BYTES
    assert fetch(server.address(), folder=tmp_path).read_bytes() == BODY
    assert server.asked[-1] == f"bytes={kept}-"


@pytest.mark.parametrize("change", ["other file", "no ranges", "no tag"])
def test_what_cannot_be_resumed_begins_anew(server: Server, tmp_path: Path, change: str) -> None:
    if change == "no tag":
        server.tag = ""
    server.break_after = [CHUNK_BYTES + 5, 0]
    with pytest.raises(UserError):
        fetch(server.address(), folder=tmp_path)
    if change == "other file":
        server.body, server.tag = BODY[::-1], '"two"'
    elif change == "no ranges":
        server.ranges = False
    assert fetch(server.address(), folder=tmp_path).read_bytes() == server.body


def test_a_part_that_is_whole_already_is_taken(server: Server, tmp_path: Path) -> None:
    server.break_after = [CHUNK_BYTES + 5, 0]
    with pytest.raises(UserError):
        fetch(server.address(), folder=tmp_path)
    next(tmp_path.rglob("weights.pth.part")).write_bytes(BODY)
    assert fetch(server.address(), folder=tmp_path).read_bytes() == BODY
    assert server.asked[-1] == f"bytes={len(BODY)}-"


@pytest.mark.parametrize("how", ["argument", "address", "name", "first digits"])
def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path, how: str) -> None:
    wrong = "deadbeef" + SHA256[8:]
    address, sha256 = server.address(), wrong
    if how == "address":
        address, sha256 = f"{address}#sha256={wrong}", None
    elif how == "name":
        address, sha256 = server.address("resnet50-deadbeef.pth"), None
    elif how == "first digits":
        sha256 = "deadbeef"
    with pytest.raises(UserError, match=rf"sha256 is {SHA256}, expected deadbeef.*it was deleted"):
        fetch(address, folder=tmp_path, sha256=sha256)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"]


@pytest.mark.parametrize("wrong", ["12345", "not-hexadecimal", "0" * 65])
def test_what_is_no_checksum_is_said_before_the_download(server: Server, tmp_path: Path, wrong: str) -> None:
    for options in ({"sha256": wrong}, {}):
        address = server.address() if options else f"{server.address()}#sha256={wrong}"
        with pytest.raises(UserError, match=rf"'{wrong}' is no sha256; give its 64 hexadecimal digits"):
            fetch(address, folder=tmp_path, **options)
    assert not server.asked


def test_a_web_page_in_place_of_the_file_is_not_kept(server: Server, tmp_path: Path) -> None:
    """Else the page would be what every later call finds in the cache."""
    server.body = b"\n<!DOCTYPE html><html><title>Sign in</title></html>"
    with pytest.raises(UserError, match=r"seems to be an HTML page .*it was deleted; fix: .*give its path"):
        fetch(server.address(), folder=tmp_path)
    server.body = BODY
    assert fetch(server.address(), folder=tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("name", [f"resnet50-{SHA256[:8]}.pth", "epoch-20200617.pth"])
def test_right_digits_and_dates_in_names_pass(server: Server, tmp_path: Path, name: str) -> None:
    assert fetch(server.address(name), folder=tmp_path).read_bytes() == BODY


def test_a_cached_file_of_another_checksum_is_fetched_again(server: Server, tmp_path: Path) -> None:
    file = fetch(server.address(), folder=tmp_path)
    file.write_bytes(b"damaged")
    assert fetch(server.address(), folder=tmp_path, sha256=SHA256).read_bytes() == BODY
    assert len(server.asked) == 2


def test_errors_say_how_to_go_on_without_a_network(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(
        UserError, match=r"server answers 404 Not Found; check the address; .*give the file's path"
    ):
        fetch(server.address(), folder=tmp_path)
    with Server() as closed:
        nobody = closed.address()
    with pytest.raises(
        UserError, match=r"cannot be downloaded .*download it elsewhere and give the file's path"
    ):
        fetch(nobody, folder=tmp_path)


@pytest.mark.parametrize(
    "address", ["ftp://127.0.0.1/x.pth", "http://127.0.0.1/", "x.pth", "http://127.0.0.1/.x"]
)
def test_what_is_no_address_of_a_file_is_named(address: str) -> None:
    with pytest.raises(UserError, match="is not the http"):
        fetch(address)


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("DEEPLAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "deeplab"
    if sys.platform == "linux":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache_folder() == tmp_path / ".cache/deeplab"
    assert is_address("https://example.org/x")
    assert not is_address("C:/x")


def test_import_takes_an_address(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path))
    server.body = b"<!DOCTYPE html><html>Sign in</html>"
    with pytest.raises(SystemExit) as stopped:
        main(["import", server.address(), "-o", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "this seems to be an HTML page (a failed download?)" in capsys.readouterr().err
