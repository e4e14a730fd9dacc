"""The API: photos in, labels out, and what a cluster asks a server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from importlib import resources
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from deeplab import __version__
from deeplab.errors import UserError
from deeplab.imaging.photos import photo_from_bytes
from deeplab.serve.answers import Answer, Output, answer, label
from deeplab.serve.limits import FORMATS, MOST_SCALES, Limits
from deeplab.serve.metrics import Counted, Metrics
from deeplab.serve.models import Models, with_options
from deeplab.serve.problems import HANDLERS, LEFT, PROBLEM, TICKET, Refused, problem
from deeplab.serve.queue import Busy, Gone, Queue

FORM = "multipart/form-data"
FIELD = "image"
# seconds in which a refused body is read to its end, so that its sender sees the answer and not a broken pipe
PATIENCE = 5.0
# of a photo, until some were measured
FIRST_GUESS = 0.2
PAGE = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "page/gallery.json": ("gallery.json", "application/json"),
}
SAFE = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self)",
    "cache-control": "no-cache",
}
SAID = (
    "x-deeplab-model",
    "x-deeplab-version",
    "x-deeplab-milliseconds",
    "retry-after",
    TICKET,
    "server-timing",
)


class Stride(IntEnum):
    """Output strides that models run at."""

    S4, S8, S16, S32 = 4, 8, 16, 32


@dataclass
class State:
    """What requests share.

    Attributes:
        draining: the server is about to stop, so nothing new is taken.
    """

    models: Models
    limits: Limits
    queue: Queue
    token: str | None
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False


def make_app(
    models: Models, limits: Limits, *, token: str | None = None, origins: Sequence[str] = ()
) -> FastAPI:
    """The application; `app.state.shared` is its `State`.

    Args:
        models: what it offers.
        limits: what it takes.
        token: what requests to /v1 and /metrics must bear; None lets everybody in.
        origins: pages of other hosts that may use the API from a browser; "*" for all.
    """
    shared = State(models, limits, Queue(limits.queue, deadline=limits.deadline, mean=FIRST_GUESS), token)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        shared.queue.close()

    app = FastAPI(
        title="DeepLab",
        version=__version__,
        summary="Every pixel of a photo gets a name.",
        # its pages load their script from another host
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers=HANDLERS,
    )
    app.state.shared = shared
    _add_api(app, shared)
    _add_cluster(app, shared)
    _add_page(app)
    paths = frozenset(route.path for route in app.routes if isinstance(route, Route))
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", TICKET],
            expose_headers=list(SAID),
        )
    app.add_middleware(Counted, metrics=shared.metrics, paths=paths)
    return app


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = {
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
        "required": ["type", "title", "status", "detail"],
    }
    return {
        status: {"description": "A problem document (RFC 9457)", "content": {PROBLEM: {"schema": schema}}}
        for status in statuses
    }


ANY_BYTES = {"schema": {"type": "string", "format": "binary"}}
ANY_OBJECT = {"schema": {"type": "object"}}
PHOTO_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            **{f"image/{kind}": ANY_BYTES for kind in ("jpeg", "png", "webp", "gif", "bmp", "tiff")},
            "application/octet-stream": ANY_BYTES,
            FORM: {
                "schema": {
                    "type": "object",
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                    "required": [FIELD],
                }
            },
        },
    }
}
LABELLED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The photo, labelled.",
        "content": {
            "image/png": ANY_BYTES,
            "application/json": ANY_OBJECT,
            "application/geo+json": ANY_OBJECT,
            "application/x-npy": ANY_BYTES,
        },
    }
}


def _add_api(app: FastAPI, shared: State) -> None:
    @app.post(
        "/v1/segment",
        response_class=Response,
        responses=LABELLED | _problems(400, 401, 404, 408, 413, 422, 500, 503),
        openapi_extra=PHOTO_BODY,
    )
    async def segment(
        request: Request,
        model: Annotated[str | None, Query(description="Default: the first of /v1/models.")] = None,
        output: Output = "labels",
        output_stride: Annotated[Stride | None, Query(description="Smaller is denser and slower.")] = None,
        scales: Annotated[
            list[Annotated[float, Query(ge=0.25, le=2)]] | None,
            Query(min_length=1, max_length=MOST_SCALES, description="Sizes to average over."),
        ] = None,
        flip: Annotated[bool | None, Query(description="Also average over the mirrored photo.")] = None,
    ) -> Response:
        """Label every pixel of a photo: the raw body, or the field `image` of a form.

        labels: indexed PNG with a palette, of the photo's size. overlay: PNG with a legend. rle: COCO's run lengths
        by class. polygons: GeoJSON in pixels. probabilities: NumPy file, float16 [classes, H, W]. shares: JSON.
        together: labels, probability of each label (255 is 1) and shares as JSON, bytes in base64.
        """
        _let_in(request, shared)
        try:
            if shared.draining:
                raise Busy("this server is about to stop", 1)
            offered = _found(shared, model)
            how = with_options(shared.models.how, output_stride=output_stride, scales=scales, flip=flip)
            _check_length(request, shared.limits)
            place = shared.queue.place(request.headers.get(TICKET, ""))
        except Exception:
            await _read_away(request)
            raise
        with place:
            content, name = await _body(request, shared.limits)
            most = shared.limits.pixels / shared.models.weight(offered, how)
            photo = await shared.queue.beside(
                lambda: photo_from_bytes(content, name=name, formats=FORMATS, most_pixels=most)
            )
            work = lambda: label(shared.models.predictor(offered.name, how), photo, output)  # noqa: E731
            try:
                (result, confidence), seconds = await place.compute(work, _left(request))
            except Gone:
                return Response(status_code=LEFT)
            about = {"model": offered.name, "version": offered.version}
            body, headers = await shared.queue.beside(lambda: answer(result, confidence, output, about))
        return _answered(shared, offered, photo, seconds, (body, headers))

    @app.get("/v1/models", responses=_problems(401, 500))
    async def models(request: Request) -> dict[str, Any]:
        """Models by name, what they know, and what this server takes."""
        _let_in(request, shared)
        limits = shared.limits
        described = await asyncio.wrap_future(shared.queue.computing.submit(shared.models.describe))
        return {"models": described, "max_pixels": limits.pixels, "max_bytes": limits.bytes}


def _add_cluster(app: FastAPI, shared: State) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "alive"}

    @app.get("/readyz", responses=_problems(503))
    async def readyz() -> Response:
        """Whether it takes photos: not while it is about to stop."""
        if shared.draining:
            return problem(503, "this server is about to stop")
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=Response, responses=_problems(401))
    async def metrics(request: Request) -> Response:
        """Counts in Prometheus' format."""
        _let_in(request, shared)
        shared.metrics.inside.set(shared.queue.taken)
        return Response(shared.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_page(app: FastAPI) -> None:
    folder = resources.files("deeplab") / "serve" / "page"

    def add(path: str, content: bytes, kind: str) -> None:
        @app.get(f"/{path}", include_in_schema=False)
        async def page() -> Response:
            return Response(content, media_type=kind, headers=SAFE)

    for path, (name, kind) in PAGE.items():
        add(path, (folder / name).read_bytes(), kind)
    for photo in (folder / "photos").iterdir():
        if photo.name.endswith(".jpg"):
            add(f"page/photos/{photo.name}", photo.read_bytes(), "image/jpeg")


def _let_in(request: Request, shared: State) -> None:
    if shared.token is None:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not secrets.compare_digest(given.encode(), shared.token.encode()):
        raise Refused(
            401,
            "this server wants its token; fix: Authorization: Bearer TOKEN",
            {"www-authenticate": "Bearer"},
        )


def _found(shared: State, model: str | None) -> Any:
    try:
        return shared.models.named(model)
    except UserError as error:
        raise Refused(404, str(error)) from error


def _check_length(request: Request, limits: Limits) -> None:
    length = request.headers.get("content-length", "0")
    if int(length) > limits.bytes:
        raise _too_long(f"{int(length):,}", limits)


def _too_long(found: str, limits: Limits) -> Refused:
    return Refused(413, f"a body of {found} bytes; allowed: {limits.bytes:,}; fix: shrink the photo")


async def _body(request: Request, limits: Limits) -> tuple[bytes, str]:
    """The photo's bytes, and what messages call it."""
    try:
        async with asyncio.timeout(limits.body):
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
                return b"".join([part async for part in _parts(request, limits)]), "the photo"
            parser = MultiPartParser(request.headers, _parts(request, limits), max_files=1, max_fields=8)
            # in memory like a raw body, never on a disk
            parser.spool_max_size = limits.bytes
            try:
                form = await parser.parse()
            # its parser raises KeyError without a boundary
            except (MultiPartException, KeyError) as error:
                raise Refused(400, f"the form cannot be read ({getattr(error, 'message', error)})") from None
            try:
                file = form.get(FIELD)
                if file is None or isinstance(file, str):
                    raise Refused(400, f"the form has no file {FIELD!r}; fix: curl -F {FIELD}=@photo.jpg")
                return await file.read(), file.filename or "the photo"
            finally:
                await form.close()
    except TimeoutError:
        raise Refused(
            408, f"the body did not come within {limits.body:g} s", {"connection": "close"}
        ) from None


async def _parts(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limits.bytes:
            await _read_away(request)
            raise _too_long(f"more than {limits.bytes:,}", limits)
        yield part


async def _read_away(request: Request) -> None:
    """Read what is left of a refused body, for some seconds, and keep none of it."""
    if request.headers.get("expect", "").lower() == "100-continue":
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answered(shared: State, offered: Any, photo: np.ndarray, seconds: float, made: Answer) -> Response:
    shared.metrics.computing.labels(offered.name).observe(seconds)
    shared.metrics.pixels.labels(offered.name).inc(photo.shape[0] * photo.shape[1])
    body, headers = made
    milliseconds = f"{1000 * seconds:.1f}"
    return Response(
        body,
        headers=headers
        | {
            "x-deeplab-model": offered.name,
            "x-deeplab-version": offered.version,
            "x-deeplab-milliseconds": milliseconds,
            "server-timing": f"compute;dur={milliseconds}",
        },
    )
