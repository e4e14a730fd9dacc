"""Reading, computing and writing at the same time, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
Written = TypeVar("Written")

AHEAD = 2


@dataclass(frozen=True)
class Lanes(Generic[Read]):
    """Several items computed side by side, each in a thread of its own.

    Attributes:
        count: how many at most.
        begin: called once in each of these threads.
        alone: whether what was read is computed in the caller's thread, while nothing else is.
    """

    count: int
    begin: Callable[[], None]
    alone: Callable[[Read], bool]


def pipelined(
    items: Iterable[Item],
    *,
    read: Callable[[Item], Read],
    compute: Callable[[Read], Made],
    write: Callable[[Item, Made], Written],
    lanes: Lanes[Read] | None = None,
) -> Generator[Future[Written], None, None]:
    """`write(item, compute(read(item)))` of every item, in order, each as a future that is done.

    `read` and `write` run in a thread each, `compute` in the caller's or in `lanes`; at most `AHEAD` items wait before
    and behind those that are computed. What one of them raises is in its item's future, and the others go on. A
    caller who stops (an exception, Ctrl-C, `close`) ends it all: what runs is finished, what waits is dropped.
    """
    left = iter(items)
    reader, writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
    beside = ThreadPoolExecutor(lanes.count, "compute", lanes.begin) if lanes else None
    most = AHEAD + (lanes.count if lanes else 0)

    def written(item: Item, photo: Future[Read]) -> Future[Written]:
        try:
            found = photo.result()
            if lanes and beside and not lanes.alone(found):
                return beside.submit(lambda: writer.submit(write, item, compute(found)).result())
            if lanes:
                wait(writing)
            return writer.submit(write, item, compute(found))
        except Exception as error:
            failed: Future[Written] = Future()
            failed.set_exception(error)
            return failed

    try:
        reading = deque((item, reader.submit(read, item)) for item in islice(left, AHEAD))
        writing: deque[Future[Written]] = deque()
        while reading:
            item, photo = reading.popleft()
            reading.extend((each, reader.submit(read, each)) for each in islice(left, 1))
            writing.append(written(item, photo))
            while writing and (writing[0].done() or len(writing) > most):
                yield _finished(writing.popleft())
        yield from map(_finished, writing)
    finally:
        # lanes end while there is a writer that they wait for
        for threads in (beside, reader, writer):
            if threads is not None:
                threads.shutdown(cancel_futures=True)


def _finished(future: Future[Written]) -> Future[Written]:
    future.exception()
    return future
