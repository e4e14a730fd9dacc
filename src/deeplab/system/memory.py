"""Memory: whether it ran out, and that it is kept once freed.

glibc hands large blocks back to the system and faults them in again at every step. Keeping them was measured at 1.6
times in MobileNetV2 training and more in inference on large photos. The price is a heap that stays at its peak size.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# <malloc.h>
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -3, -4, -8
# at 8 MB a scene's peak still scattered by a tenth from run to run, at 4 by a hundredth
LARGE = 4 << 20
LARGEST_INT = 2**31 - 1
RAN_OUT = ("not enough memory", "out of memory", "bad allocation", "bad_alloc", "Failed to allocate memory")


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of PyTorch, NumPy or a runtime, says that memory ran out."""
    return isinstance(error, MemoryError) or any(said in str(error) for said in RAN_OUT)


def keep_freed_memory(*, every_thread: bool = False) -> bool:
    """Tell glibc to reuse freed blocks instead of returning them; True if it took effect (Linux, glibc).

    Args:
        every_thread: also for threads that start later, which then share the first one's heap; those of their own
            are returned to the system in any case.
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    settings = [(M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, LARGEST_INT), (M_TOP_PAD, 64 << 20)]
    settings += [(M_ARENA_MAX, 1)] if every_thread else []
    return all([mallopt(name, value) == 1 for name, value in settings])


def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's, where that is what allocates."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        found: Callable[[int, int], int] = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return None
    return found


@contextmanager
def large_blocks_given_back() -> Iterator[None]:
    """Instead of `keep_freed_memory`, which holds again afterwards: freed blocks of 4 MB and more go to the system.

    For long runs in little memory: in a heap that is kept, free blocks between others become ever more.
    """
    mallopt = _mallopt()
    if mallopt is not None:
        for name, value in ((M_MMAP_THRESHOLD, LARGE), (M_MMAP_MAX, LARGEST_INT)):
            mallopt(name, value)
    try:
        yield
    finally:
        keep_freed_memory()
