"""Reading, computing and writing at the same time, one item behind the other, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
Written = TypeVar("Written")

AHEAD = 2


def pipelined(
    items: Iterable[Item],
    *,
    read: Callable[[Item], Read],
    compute: Callable[[Read], Made],
    write: Callable[[Item, Made], Written],
) -> Generator[Future[Written], None, None]:
    """`write(item, compute(read(item)))` of every item, in order, each as a future that is done.

    `read` and `write` run in a thread each, `compute` in the caller's; at most `AHEAD` items wait before and behind
    it. What one of them raises is in its item's future, and the others go on. A caller who stops (an exception,
    Ctrl-C, `close`) ends it all: what runs is finished, what waits is dropped.
    """
    left = iter(items)
    reader, writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
    try:
        reading = deque((item, reader.submit(read, item)) for item in islice(left, AHEAD))
        writing: deque[Future[Written]] = deque()
        while reading:
            item, photo = reading.popleft()
            reading.extend((each, reader.submit(read, each)) for each in islice(left, 1))
            writing.append(_written(item, photo, compute, write, writer))
            while writing and (writing[0].done() or len(writing) > AHEAD):
                yield _finished(writing.popleft())
        yield from map(_finished, writing)
    finally:
        for thread in (reader, writer):
            thread.shutdown(cancel_futures=True)


def _written(
    item: Item,
    photo: Future[Read],
    compute: Callable[[Read], Made],
    write: Callable[[Item, Made], Written],
    writer: ThreadPoolExecutor,
) -> Future[Written]:
    try:
        return writer.submit(write, item, compute(photo.result()))
    except Exception as error:
        failed: Future[Written] = Future()
        failed.set_exception(error)
        return failed


def _finished(future: Future[Written]) -> Future[Written]:
    future.exception()
    return future
