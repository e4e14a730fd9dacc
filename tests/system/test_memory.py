"""Memory that is kept once freed, and given back while asked for: in a process of its own, as it holds for all."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
from pathlib import Path
from deeplab.system.memory import keep_freed_memory, large_blocks_given_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 100 << 20

def left_by_a_block():
    before = resident()
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    above = libc.malloc(1 << 20)
    libc.free(block)
    return resident() - before

assert keep_freed_memory()
with large_blocks_given_back():
    assert left_by_a_block() < size // 2
assert left_by_a_block() > size // 2
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_what_is_freed_is_kept_but_while_it_is_given_back() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
