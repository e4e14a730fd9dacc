"""Memory that is kept once freed, and given back when asked for: in a process of its own, as it cannot be undone."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
from pathlib import Path
from deeplab.system.memory import give_back_freed_memory, keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
assert keep_freed_memory()
size = 100 << 20
block = libc.malloc(size)
ctypes.memset(block, 1, size)
above = libc.malloc(1 << 20)
libc.free(block)
kept = resident()
give_back_freed_memory()
assert kept - resident() > size // 2, (kept, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_what_is_freed_is_kept_until_it_is_given_back() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
