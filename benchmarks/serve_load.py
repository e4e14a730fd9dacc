"""What `deeplab serve` does under load: the figures of docs/serving.md, or an exit code 1 where one is not met.

    python benchmarks/serve_load.py [--model animals] [--requests 2000] [--soak MINUTES] [--only NAME]

Starts servers of its own on the loopback, never more than 64 clients, and ends them.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

Reply = tuple[int, dict[str, str], bytes, float]
FAILED: list[str] = []


def main() -> None:
    """Run them all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="animals")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--soak", type=float, default=0, metavar="MINUTES")
    parser.add_argument("--only", choices=list(LOADS))
    given = parser.parse_args()
    for name, load in LOADS.items():
        if given.only in (None, name) and (name != "soak" or given.soak):
            print(f"{name}: {load(given)}", flush=True)
    if FAILED:
        sys.exit("not met: " + "; ".join(FAILED))


def steady(given: argparse.Namespace) -> str:
    """So many requests from 8 clients."""
    photos = [photo(257, 257, seed) for seed in range(16)]
    with server(given.model) as (process, port):
        memory = [resident(process)]

        def one(number: int) -> Reply:
            if number % (given.requests // 10) == 0:
                memory.append(resident(process))
            return segment(port, photos[number % len(photos)])

        start = time.perf_counter()
        with ThreadPoolExecutor(8) as clients:
            replies = list(clients.map(one, range(given.requests)))
        seconds = time.perf_counter() - start
        wanted(set(statuses(replies)) == {200}, f"steady: {statuses(replies)}")
        counted = get(port, "/metrics")[2].decode()
        wanted(f'status="200"}} {float(given.requests)}' in counted, "steady: metrics count the requests")
        settled, last = memory[2], resident(process)
        wanted(last < 1.05 * settled, f"steady: memory {settled} -> {last} MB")
        return (
            f"{dict(statuses(replies))}, {len(replies) / seconds:.1f}/s, {times(replies)}, "
            f"{settled} MB after a tenth, {last} MB at the end"
        )


def crowd(given: argparse.Namespace) -> str:
    """64 clients on a queue of 8, each of them coming again when told, then one alone."""
    content = photo(257, 257, 0)
    served: list[float] = []
    refusals = Counter[int]()

    with server(given.model, "--queue", "8") as (_, port):

        def client(seed: int) -> None:
            jitter = random.Random(seed)
            for _ in range(10):
                start = time.perf_counter()
                ticket: dict[str, str] = {}
                while True:
                    status, headers, _, _ = segment(port, content, headers=ticket)
                    if status == 200:
                        break
                    refusals[status] += 1
                    wanted("retry-after" in headers, "crowd: a refusal says when to come again")
                    ticket = {name: value for name, value in headers.items() if name == "x-deeplab-ticket"}
                    time.sleep(float(headers["retry-after"]) * jitter.uniform(1, 1.25))
                served.append(time.perf_counter() - start)

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wanted(set(refusals) <= {503}, f"crowd: {dict(refusals)}")
        wanted(len(served) == 640, "crowd: everybody is served")
        after = segment(port, content)
        wanted(after[0] == 200, "crowd: recovery")
    return (
        f"{len(served)} served, {dict(refusals)} refused; until served, refusals included: "
        f"{spread(served)}; alone afterwards {1000 * after[3]:.0f} ms"
    )


def stopping(given: argparse.Namespace) -> str:
    """SIGTERM with 8 in flight."""
    content = photo(700, 700, 0)
    with server(given.model, "--drain", "1") as (process, port), ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(segment, port, content) for _ in range(8)]
        while b"places_taken 8.0" not in get(port, "/metrics")[2]:
            time.sleep(0.02)
        started = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        ready = get(port, "/readyz")[0]
        replies = [each.result() for each in asked]
        code = process.wait(60)
        wanted((set(statuses(replies)), code, ready) == ({200}, 0, 503), "stopping")
        seconds = time.perf_counter() - started
        return f"{dict(statuses(replies))}, /readyz {ready}, exit code {code} after {seconds:.1f} s"


def bombs(given: argparse.Namespace) -> str:
    """A small file of 100 megapixels."""
    with server(given.model) as (process, port):
        segment(port, photo(257, 257, 0))
        before = resident(process)
        replies = [segment(port, bomb(10_000)) for _ in range(20)]
        slowest = max(reply[3] for reply in replies)
        wanted(set(statuses(replies)) == {413}, f"bombs: {statuses(replies)}")
        wanted(slowest < 0.05, f"bombs: {1000 * slowest:.0f} ms")
        return f"{dict(statuses(replies))}, slowest {1000 * slowest:.1f} ms, memory {before} -> {resident(process)} MB"


def health(given: argparse.Namespace) -> str:
    """/healthz while the largest photo allowed is computed."""
    content = photo(2000, 2000, 0)
    with server(given.model) as (process, port), ThreadPoolExecutor(1) as clients:
        computing = clients.submit(segment, port, content)
        asked: list[float] = []
        most = 0
        while not computing.done():
            asked.append(get(port, "/healthz")[3])
            most = max(most, resident(process))
            time.sleep(0.02)
        status, _, _, seconds = computing.result()
        wanted(status == 200, f"health: {status}")
        wanted(max(asked) < 0.1, f"health: {1000 * max(asked):.0f} ms")
        return f"{len(asked)} asked in {seconds:.1f} s, {spread(asked)}, server at most {most} MB"


def halves(given: argparse.Namespace) -> str:
    """Half a header, and none."""
    found = []
    with server(given.model) as (_, port):
        for start in (b"", b"POST /v1/segment HTTP/1.1\r\nhost:"):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as half:
                since = time.perf_counter()
                half.sendall(start)
                with suppress(ConnectionResetError):
                    half.recv(1)
                found.append(time.perf_counter() - since)
    wanted(max(found) < 10, f"halves: {max(found):.1f} s")
    return f"closed after {found[0]:.1f} s and {found[1]:.1f} s"


def soak(given: argparse.Namespace) -> str:
    """Mixed sizes and outputs, mistakes among them."""
    sizes = [(120, 90), (257, 257), (375, 500), (500, 375), (513, 513), (768, 1024), (1200, 1600)]
    photos = [photo(*size, 0) for size in sizes]
    outputs = ["labels", "overlay", "rle", "polygons", "shares", "together", "probabilities"]
    end = time.monotonic() + 60 * given.soak
    memory: list[int] = []
    with server(given.model) as (process, port), ThreadPoolExecutor(4) as clients:

        def client(seed: int) -> list[Reply]:
            choice, replies = random.Random(seed), []
            while time.monotonic() < end:
                broken = choice.random() < 0.05
                content = b"no photo" if broken else choice.choice(photos)
                replies.append(segment(port, content, f"output={choice.choice(outputs)}"))
                wanted(replies[-1][0] == (400 if broken else 200), f"soak: {replies[-1][0]}")
                if seed == 0:
                    memory.append(resident(process))
            return replies

        replies = [reply for each in clients.map(client, range(4)) for reply in each]
        half = memory[len(memory) // 2 :]
        wanted(max(half) < 1.1 * max(memory[: len(memory) // 2]), f"soak: memory {max(memory)} MB")
        return (
            f"{dict(statuses(replies))} in {given.soak:g} minutes, {times(replies)}; at most "
            f"{max(memory[: len(memory) // 2])} MB in the first half, {max(half)} MB in the second"
        )


def schema(given: argparse.Namespace) -> str:
    """Whatever openapi.json allows, and what it does not, by schemathesis."""
    tool = Path(sys.executable).with_name("schemathesis")
    if not tool.exists():
        return "not run; fix: pip install schemathesis"
    with server(given.model, "--queue", "64", "--max-pixels", "200000") as (_, port):
        # most bytes are no photo and are answered 400, which that check takes for a fault
        checks = ("--checks", "all", "--exclude-checks", "positive_data_acceptance")
        address = f"http://127.0.0.1:{port}/openapi.json"
        done = subprocess.run(
            [
                tool,
                "run",
                address,
                *checks,
                "--max-examples",
                "50",
                "--seed",
                "1",
                "--request-timeout",
                "120",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    wanted(done.returncode == 0, f"schema: {done.stdout}")
    return done.stdout.strip().splitlines()[-1].strip("= ")


LOADS: dict[str, Callable[[argparse.Namespace], str]] = {
    "steady": steady,
    "crowd": crowd,
    "stopping": stopping,
    "bombs": bombs,
    "health": health,
    "halves": halves,
    "schema": schema,
    "soak": soak,
}


@contextmanager
def server(model: str, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command on a free port, ready."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "deeplab", "serve", "-m", model, "--port", "0", *words],
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            while "ready at" not in log.read_text():
                if process.poll() is not None:
                    sys.exit(log.read_text())
                time.sleep(0.05)
            yield process, int(log.read_text().rpartition(":")[2])
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def get(port: int, path: str) -> Reply:
    """Status, headers, body and seconds of a GET."""
    return _asked(port, "GET", path, None, {})


def segment(port: int, content: bytes, query: str = "", headers: dict[str, str] | None = None) -> Reply:
    """The same of a photo that is posted."""
    return _asked(port, "POST", f"/v1/segment?{query}", content, headers or {})


def _asked(port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Reply:
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        content = reply.read()
    finally:
        connection.close()
    found = {key.lower(): value for key, value in reply.getheaders()}
    return reply.status, found, content, time.perf_counter() - start


def photo(height: int, width: int, seed: int) -> bytes:
    """A JPEG of soft colours."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8
    )
    content = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(content, "JPEG")
    return content.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of side * side pixels, all of them black."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(1 + 3 * side)) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def resident(process: subprocess.Popen[bytes]) -> int:
    """Megabytes that it holds."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


def statuses(replies: list[Reply]) -> Counter[int]:
    """How many of each."""
    return Counter(reply[0] for reply in replies)


def times(replies: list[Reply]) -> str:
    """How long they took."""
    return spread([reply[3] for reply in replies])


def spread(seconds: list[float]) -> str:
    """Percentiles in milliseconds."""
    ordered = sorted(seconds)
    found = {
        f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 90, 99)
    }
    return (
        " ".join(f"{name} {1000 * value:.0f}" for name, value in found.items())
        + f" max {1000 * ordered[-1]:.0f} ms"
    )


def wanted(met: bool, what: str) -> None:
    """Note what is not met."""
    if not met and what not in FAILED:
        FAILED.append(what)


if __name__ == "__main__":
    main()
