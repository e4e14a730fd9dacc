"""Errors as RFC 9457 problem documents, with the very sentences that the command prints."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from deeplab.errors import UserError
from deeplab.imaging.photos import TooManyPixels
from deeplab.serve.queue import Busy

PROBLEM = "application/problem+json"
# the client left, so nobody reads it; as nginx counts it
LEFT = 499
TICKET = "x-deeplab-ticket"


class Refused(Exception):
    """A request that is refused by a status of its own."""

    def __init__(self, status: int, what: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(what)
        self.status, self.headers = status, headers or {}


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem document whose detail is one sentence."""
    title = HTTPStatus(status).phrase
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body, status_code=status, headers=headers, media_type=PROBLEM)


async def of_user_error(request: Request, error: UserError) -> JSONResponse:
    """413 for too many pixels, else 400."""
    return problem(413 if isinstance(error, TooManyPixels) else 400, str(error))


async def of_busy(request: Request, error: Busy) -> JSONResponse:
    """503, when to come again, and the ticket to show then."""
    after = error.retry_after
    ticket = {TICKET: error.ticket} if error.ticket else {}
    return problem(503, f"{error}; fix: try again in {after} s", {"retry-after": str(after)} | ticket)


async def of_refused(request: Request, error: Refused) -> JSONResponse:
    """Its own status."""
    return problem(error.status, str(error), error.headers)


async def of_http(request: Request, error: HTTPException) -> JSONResponse:
    """No such path, or another method there."""
    return problem(
        error.status_code, f"{request.method} {request.url.path}: {error.detail}", dict(error.headers or {})
    )


async def of_values(request: Request, error: RequestValidationError) -> JSONResponse:
    """422: a parameter that is not what the API takes."""
    first = error.errors()[0]
    # without the first, which says that it is of the query
    place = ".".join(str(part) for part in first["loc"][1:])
    return problem(422, f"{place} is {first.get('input')!r}: {first['msg']}")


async def of_defect(request: Request, error: Exception) -> JSONResponse:
    """500: a fault of ours; what it was stands in the server's log."""
    return problem(500, "the server failed at this request, and its log says why")


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    UserError: of_user_error,
    Busy: of_busy,
    Refused: of_refused,
    HTTPException: of_http,
    RequestValidationError: of_values,
    Exception: of_defect,
}
