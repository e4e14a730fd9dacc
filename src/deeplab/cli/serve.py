"""`deeplab serve`."""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deeplab.cli.labelling import ONE_PASS, USUAL, Passes, Runtime, labelling
from deeplab.errors import MOST_PROCESSES, UserError, refuse_outside, require
from deeplab.system.reading import foreign, read_text

TOKEN = "DEEPLAB_TOKEN"
EXTRA = "serve"


def serve(
    *,
    model: Annotated[tuple[str, ...], Parameter(name=["--model", "-m"], negative="")] = ("animals",),
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    queue: int = 16,
    max_pixels: int = 4_000_000,
    max_bytes: int = 20_000_000,
    deadline: float = 60.0,
    drain: float = 2.0,
    token_file: Path | None = None,
    cors: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    passes: Passes = ONE_PASS,
    runtime: Runtime = USUAL,
) -> int:
    """Label photos over HTTP, with a page to try it at /.

    Options that say how photos are labelled hold where a request says nothing else.

    Parameters
    ----------
    model:
        As deeplab predict takes it, or NAME=PATH to choose the name; several times for several, the first is the
        default.
    host:
        Address to listen at. The default is reached from this machine only; 0.0.0.0 from everywhere.
    port:
        0 takes any free one.
    workers:
        Processes, each with its own copy of the models.
    queue:
        Requests that may be inside each process; more are answered 503 and told when to come again.
    max_pixels:
        Of a photo; a larger one is refused by its header. Memory follows it, up to 1 GB a million.
    max_bytes:
        Of a request's body.
    deadline:
        Seconds that a request may wait for its turn.
    drain:
        Seconds between the signal to stop, from when on /readyz says no, and the end of listening.
    token_file:
        File that holds the token that requests must bear; also from the variable DEEPLAB_TOKEN.
    cors:
        Origins whose pages may use the API from a browser, such as https://example.org.
    """
    # libgomp reads it when torch is imported; waiting threads that spin make a busy machine several times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for module in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        require(module, extra=EXTRA)
    from deeplab.serve.limits import Limits
    from deeplab.serve.server import Service, listen
    from deeplab.serve.server import serve as run

    refuse_outside(1, MOST_PROCESSES, workers=workers)
    refuse_outside(0, 65_535, port=port)
    refuse_outside(0, 86_400, drain=drain)
    limits = Limits(pixels=max_pixels, bytes=max_bytes, queue=queue, deadline=deadline)
    token = _token(token_file)
    service = Service(model, labelling(runtime, passes), limits, token=token, origins=cors, drain=drain)
    with listen(host, port) as bound:
        address = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
        if not _loopback(host):
            guard = "whoever has the token" if token else "everybody who reaches it (fix: --token-file)"
            print(
                f"{address} is open to other machines: to {guard}, unencrypted; put a proxy with TLS in front",
                file=sys.stderr,
            )
        return run(service, bound, workers=workers, ready=lambda: print(f"ready at {address}", flush=True))


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN) or None
    with foreign(file, "is no text", fix="write one line of random letters into it"):
        token = read_text(file).strip()
    if not token:
        raise UserError("holds no token", fix="write one line of random letters into it", file=file)
    return token


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
