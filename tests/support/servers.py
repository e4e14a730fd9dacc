"""A server of our own on the loopback, in this process or as the command, and a client that needs no library."""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LONGEST_START = 120


@dataclass
class Reply:
    """What came back; header names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Client:
    """Asks one server, with a connection for each request."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path: str) -> Reply:
        """GET."""
        return self.ask("GET", path)

    def segment(self, photo: bytes, query: str = "", **headers: str) -> Reply:
        """POST a photo as the raw body."""
        return self.ask("POST", f"/v1/segment?{query}", photo, headers)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """Any request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, self.headers | (headers or {}))
            found = connection.getresponse()
            return Reply(
                found.status, {key.lower(): value for key, value in found.getheaders()}, found.read()
            )
        finally:
            connection.close()


def png(pixels: np.ndarray) -> bytes:
    """A photo's file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A photo of nothing."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@contextmanager
def serving(*models: object, how: Any = None, token: str | None = None, **limits: Any) -> Iterator[Any]:
    """A `Server` that runs in a thread; `client` and `shared` are added to it."""
    from deeplab.prediction.labelling import AS_IT_IS
    from deeplab.serve.app import make_app
    from deeplab.serve.limits import Limits
    from deeplab.serve.models import Models
    from deeplab.serve.server import Server, listen

    app = make_app(Models([str(model) for model in models], how or AS_IT_IS), Limits(**limits), token=token)
    with listen("127.0.0.1", 0) as bound:
        listening = threading.Event()
        server = Server(app, Limits(**limits), drain=0.0, ready=listening.set)
        server.shared, server.client = app.state.shared, Client(bound.getsockname()[1])
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            assert listening.wait(LONGEST_START)
            yield server
        finally:
            server.stop(0.0)
            thread.join()


@contextmanager
def command(*words: object, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """`deeplab serve` in a process of its own, ready; killed at the end if it still lives."""
    with log.open("w+") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "deeplab", "serve", "--port", "0", *map(str, words)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        try:
            until(lambda: "ready at" in log.read_text() or process.poll() is not None, seconds=LONGEST_START)
            address = log.read_text().partition("ready at http://")[2].split()
            assert address, log.read_text()
            yield process, Client(int(address[0].rpartition(":")[2]))
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def until(happened: Any, seconds: float = 30.0) -> None:
    """Wait for what must happen."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
