"""Where a result comes from."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

# instruction sets that decide how fast matrices are multiplied
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16")


def machine() -> dict[str, Any]:
    """Processor, its cores and instruction sets, memory, system, Python."""
    about = _first_processor()
    flags = about.get("flags", "").split()
    return {
        "processor": about.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "features": [name for name in FEATURES if name in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _first_processor() -> dict[str, str]:
    try:
        block = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}
