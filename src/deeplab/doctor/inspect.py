"""Reads every file of a data set once, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from deeplab.doctor.mask_facts import MaskFacts
from deeplab.doctor.photo_facts import PhotoFacts
from deeplab.doctor.readers import Pair, Reader
from deeplab.errors import UserError

# A process takes about 0.2 s to start; so much is read in one meanwhile.
_WORTH_A_POOL = 200
_CHUNK = 16


@dataclass(frozen=True, slots=True)
class Inspected:
    """A pair and what its files hold; None where the file is missing."""

    pair: Pair
    photo: PhotoFacts | None
    mask: MaskFacts | None


def inspect_pair(pair: Pair, reader: Reader) -> Inspected:
    """Decode both files of a pair."""
    return Inspected(pair, reader.photo_facts(pair), reader.mask_facts(pair))


def inspect_all(
    pairs: Sequence[Pair],
    reader: Reader,
    *,
    workers: int | None = None,
    on_pair: Callable[[], None] = lambda: None,
) -> list[Inspected]:
    """Inspect all pairs, in their order.

    Args:
        pairs: what to read.
        reader: how.
        workers: processes; None is one a core, 1 reads here. Small data sets are read here too. With more,
            a script that calls this needs the usual `if __name__ == "__main__":`.
        on_pair: called after each pair.

    Raises:
        UserError: a process was killed, which running out of memory does.
    """
    found = []
    for item in _read(pairs, reader, workers=workers or os.cpu_count() or 1):
        found.append(item)
        on_pair()
    return found


def _read(pairs: Sequence[Pair], reader: Reader, *, workers: int) -> Iterator[Inspected]:
    if workers == 1 or len(pairs) < _WORTH_A_POOL:
        yield from (inspect_pair(pair, reader) for pair in pairs)
        return
    # Forking a process that has threads can hang it; spawn works everywhere.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, context, initializer=_take_reader, initargs=(reader,)) as pool:
            yield from pool.map(_inspect_with_taken, pairs, chunksize=_CHUNK)
    except BrokenProcessPool as error:
        raise UserError(
            "a process that read pictures was killed, most likely for lack of memory",
            fix="give fewer workers, such as --workers 1, which also shows at which picture it happens",
        ) from error


# A reader may be large (a format's whole index), so each process gets it once and not with every pair.
_taken: list[Reader] = []


def _take_reader(reader: Reader) -> None:
    _taken[:] = [reader]


def _inspect_with_taken(pair: Pair) -> Inspected:
    return inspect_pair(pair, _taken[0])
