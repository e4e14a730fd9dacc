"""Who may come in, whose turn it is, and when those who may not should come again.

One thread computes, as more of them buy nothing and take memory each; two beside it decode and encode files.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Made = TypeVar("Made")
# how fast the mean follows
NEW_SHARE = 0.1
# seconds after which who was told to come again is expected no longer
LATE = 10.0
MOST_TICKETS = 1000


class Busy(Exception):
    """No place, or no turn in time; `retry_after` seconds from now there should be one, for who shows the ticket."""

    def __init__(self, what: str, retry_after: int, ticket: str = "") -> None:
        super().__init__(what)
        self.retry_after, self.ticket = retry_after, ticket


class Gone(Exception):
    """The client left before its turn, so nothing was computed."""


class Place:
    """One request's place inside, from its header to its answer.

    Used as a context manager. A place whose client leaves while its photo is computed is held until that ends, as
    the computing cannot be stopped.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._running: Future[Any] | None = None

    def __enter__(self) -> Place:
        self._queue.taken += 1
        return self

    def __exit__(self, *raised: object) -> None:
        running = self._running
        if running is None or running.done():
            self._queue.leave()
        else:
            loop = asyncio.get_running_loop()
            running.add_done_callback(lambda _: loop.call_soon_threadsafe(self._queue.leave))

    async def compute(self, work: Callable[[], Made], left: Awaitable[object]) -> tuple[Made, float]:
        """What `work` makes in the computing thread, and the seconds it took.

        Args:
            work: waits for its turn.
            left: done when the client has left.

        Raises:
            Gone: the client left first.
            Busy: the turn did not come before the deadline.
        """
        queue = self._queue
        running = queue.computing.submit(_timed, work)
        self._running = running
        made = asyncio.wrap_future(running)
        watching: asyncio.Future[Any] = asyncio.ensure_future(left)
        # nobody asks a future again that was given up
        made.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.wait({made, watching}, timeout=queue.deadline, return_when=asyncio.FIRST_COMPLETED)
            if not made.done() and not watching.done() and not running.cancel():
                # its turn has come, and ends
                await asyncio.wait({made, watching}, return_when=asyncio.FIRST_COMPLETED)
            if running.cancelled():
                raise queue.busy(f"no turn came within {queue.deadline:g} s")
            if not made.done():
                running.cancel()
                raise Gone
            result, seconds = made.result()
        finally:
            watching.cancel()
        queue.mean += NEW_SHARE * (seconds - queue.mean)
        return result, seconds


class Queue:
    """Places for at most so many requests, half of them for those who come again with a ticket.

    Without that, who is served and asks again at once takes the place before anyone who was told to wait.

    Args:
        places: how many.
        deadline: seconds that a request may wait for its turn.
        mean: seconds that a photo is guessed to take before any was computed.

    Attributes:
        taken: how many are taken now.
    """

    def __init__(self, places: int, *, deadline: float, mean: float) -> None:
        self.places, self.deadline, self.mean = places, deadline, mean
        self.taken = 0
        self.computing = ThreadPoolExecutor(1, "compute")
        self._files = ThreadPoolExecutor(2, "files")
        # when those who were told to come again are expected, in the order of their tickets
        self._expected: dict[str, float] = {}

    def place(self, ticket: str = "") -> Place:
        """A place, to be entered at once.

        Args:
            ticket: of a `Busy` before.

        Raises:
            Busy: all are taken, or kept for those who are expected.
        """
        now = time.monotonic()
        self._expected = {each: when for each, when in self._expected.items() if when + LATE > now}
        if ticket in self._expected:
            if self.taken >= self.places:
                # expected still: places are kept for it
                raise Busy(self._full(), 1, ticket)
            del self._expected[ticket]
            return Place(self)
        due = sum(when <= now for when in self._expected.values())
        if self.taken + min(due, self.places // 2) >= self.places:
            raise self.busy(self._full())
        return Place(self)

    def busy(self, what: str) -> Busy:
        """Sent away, with a ticket, for as long as those inside and those sent away before take."""
        after = max(1, math.ceil((self.taken + len(self._expected)) * self.mean))
        if len(self._expected) >= MOST_TICKETS:
            return Busy(what, after)
        ticket = secrets.token_hex(8)
        self._expected[ticket] = time.monotonic() + after
        return Busy(what, after, ticket)

    def _full(self) -> str:
        return f"all {self.places} places of the queue are taken"

    def leave(self) -> None:
        """A place is free again."""
        self.taken -= 1

    async def beside(self, work: Callable[[], Made]) -> Made:
        """What `work` makes in a thread for files."""
        return await asyncio.get_running_loop().run_in_executor(self._files, work)

    def close(self) -> None:
        """Drop what waits and end the threads."""
        self.computing.shutdown(wait=False, cancel_futures=True)
        self._files.shutdown(wait=False, cancel_futures=True)


def _timed(work: Callable[[], Made]) -> tuple[Made, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start
