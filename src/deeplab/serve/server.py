"""uvicorn, with what it lacks on an open network: time-outs for headers, and a way to stop that a balancer notices."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from deeplab.errors import UserError
from deeplab.prediction.labelling import AS_IT_IS, Labelling
from deeplab.serve.app import make_app
from deeplab.serve.limits import Limits
from deeplab.serve.metrics import SHARED
from deeplab.serve.models import Models
from deeplab.system.memory import keep_freed_memory
from deeplab.system.writing import cannot_write

BACKLOG = 256
USUAL = Limits()
# a process that dies sooner after its start would die again
SHORT_LIFE = 10.0
# bytes of the files in which a process counts
COUNTS = 1 << 18
# after the signal, for photos that are being computed
LONGEST_FAREWELL = 120


@dataclass(frozen=True)
class Service:
    """Everything that a process of the server needs to know.

    Attributes:
        models, how: see `Models`.
        token, origins: see `make_app`.
        drain: seconds between the signal to stop, when it says that it is not ready, and the end of listening.
    """

    models: tuple[str, ...]
    how: Labelling = AS_IT_IS
    limits: Limits = USUAL
    token: str | None = field(default=None, repr=False)
    origins: tuple[str, ...] = ()
    drain: float = 2.0


def guarded(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol with connections closed that wait for a header, or for a reader, longer than that."""

    class Guarded(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            between = self.cycle is None or self.cycle.response_complete
            if not between:
                self._stop()
            elif self._timer is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._wait()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop()

        def _wait(self) -> None:
            self._stop()
            self._timer = self.loop.call_later(seconds, self.transport.abort)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Guarded


class Server(uvicorn.Server):
    """A server that first says that it is not ready, then stops listening, then answers whom it has, then ends.

    Interrupted from a keyboard it does not wait for balancers; a second signal ends it at once.

    Args:
        app: see `make_app`.
        limits: its own.
        drain: see `Service`.
        ready: called when it listens.
    """

    def __init__(self, app: FastAPI, limits: Limits, *, drain: float, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=guarded(limits.header),
                ws="none",
                lifespan="on",
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=LONGEST_FAREWELL,
                backlog=BACKLOG,
            )
        )
        self._shared = app.state.shared
        self._drain, self._ready = drain, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, and then the word that it is done."""
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See the class; what uvicorn does would end the process by the signal instead of with 0."""
        if self._shared.draining:
            self.should_exit = self.force_exit = True
        else:
            self.stop(0.0 if sig == signal.SIGINT else self._drain)

    def stop(self, drain: float) -> None:
        """Not ready from now on, and after `drain` seconds no longer listening; from any thread."""
        self._shared.draining = True

        def end() -> None:
            self.should_exit = True

        timer = threading.Timer(drain, end)
        timer.daemon = True
        timer.start()


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, not yet listening.

    Raises:
        UserError: no such address here, or somebody listens there.
    """
    bound = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        if bound is not None:
            bound.close()
        raise UserError(
            f"{host}:{port} cannot be listened at ({error})", fix="another --host or --port"
        ) from error
    return bound


def serve(service: Service, bound: socket.socket, *, workers: int, ready: Callable[[], None]) -> int:
    """Answer requests until a signal says stop; the exit code.

    Args:
        service: what to serve.
        bound: see `listen`.
        workers: processes, each with a copy of the models.
        ready: called when requests are taken.

    Raises:
        UserError: see `Models`; several processes have no place to count.
    """
    if workers == 1:
        return _answer(service, bound, ready)
    return _oversee(service, bound, workers, ready)


def _answer(service: Service, bound: socket.socket, ready: Callable[[], None]) -> int:
    # before the computing thread starts
    keep_freed_memory(every_thread=True)
    app = make_app(
        Models(service.models, service.how), service.limits, token=service.token, origins=service.origins
    )
    server = Server(app, service.limits, drain=service.drain, ready=ready)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # without the one that would tell it to stop, it stops by itself

        def follow() -> None:
            parent.join()
            server.stop(0.0)

        threading.Thread(target=follow, daemon=True).start()
    server.run([bound])
    return 0


def _work(service: Service, bound: socket.socket, started: Any) -> None:
    try:
        _answer(service, bound, started.set)
    except (UserError, OSError) as error:
        folder = Path(os.environ[SHARED])
        if isinstance(error, OSError):
            if folder.is_dir():
                raise
            error = cannot_write(folder, error, "set TMPDIR to another folder")
        print(f"deeplab: {error}", file=sys.stderr)
        sys.exit(2)


def _oversee(service: Service, bound: socket.socket, workers: int, ready: Callable[[], None]) -> int:
    """Start processes, put a new one in the place of one that dies, and pass on the signal to stop."""
    spawn = multiprocessing.get_context("spawn")
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopping.append(number))
    with _counts(workers) as folder:
        os.environ[SHARED] = folder

        def start() -> tuple[Any, Any, float]:
            started = spawn.Event()
            process = spawn.Process(target=_work, args=(service, bound, started))
            process.start()
            return process, started, time.monotonic()

        running = [start() for _ in range(workers)]
        told, code = False, 0
        while running:
            if stopping:
                for process, *_ in running:
                    if process.is_alive():
                        os.kill(process.pid, signal.SIGTERM)
                break
            if not told and all(started.is_set() for _, started, _ in running):
                ready()
                told = True
            for index, (process, _, since) in enumerate(running):
                if process.is_alive():
                    continue
                _forget(folder, process.pid)
                if not told or time.monotonic() - since < SHORT_LIFE:
                    # 2 it has said itself; a signal is below 0
                    code = 2 if process.exitcode == 2 else 1
                    if code == 1:
                        print(
                            f"deeplab: process {process.pid} ended ({process.exitcode}) as soon as it began",
                            file=sys.stderr,
                        )
                    stopping.append(signal.SIGTERM)
                    break
                print(
                    f"deeplab: process {process.pid} ended ({process.exitcode}); another starts",
                    file=sys.stderr,
                )
                running[index] = start()
            time.sleep(0.2)
        for process, *_ in running:
            process.join()
    return code


@contextmanager
def _counts(workers: int) -> Iterator[str]:
    """A folder for what processes count, on a disk with the space that they take: without it they would be ended.

    Raises:
        UserError: there is none.
    """
    with ExitStack() as stack:
        try:
            kept = tempfile.TemporaryDirectory(prefix="deeplab-metrics-", ignore_cleanup_errors=True)
            folder = stack.enter_context(kept)
            space = Path(folder, "space")
            space.write_bytes(bytes(workers * COUNTS))
            space.unlink()
        except OSError as error:
            place = Path(tempfile.tempdir or os.curdir, "deeplab-metrics")
            raise cannot_write(place, error, "set TMPDIR to another folder") from error
        yield folder


def _forget(folder: str, pid: int) -> None:
    """What a dead process said of now, such as how many are inside it."""
    for file in Path(folder).glob(f"gauge_live*_{pid}.db"):
        file.unlink()
