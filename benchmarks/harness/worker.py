"""One variant in a process of its own: answers requests, one JSON object a line.

    python -m harness.worker MODULE FUNCTION JSON

`MODULE.FUNCTION(**JSON)` returns what is measured, a function without arguments. Requests are {"do": "save", "path":
PATH} (run once, keep the result as an array), {"do": "time", "seconds": S} (run for at least S seconds) and
{"do": "memory"}; the process ends with its input.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    "deeplab-segmentation",
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "transformers",
    "onnxruntime",
    "openvino",
    "numpy",
)
Variant = Callable[[], Any]


def main() -> None:
    """Builds the variant, says so, and answers until its input ends."""
    # whatever libraries print must not come between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    module, function, arguments = sys.argv[1:]
    run = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    answer({"ready": True, "versions": versions()})
    for line in sys.stdin:
        request = json.loads(line)
        answer(ANSWERS[request.pop("do")](run, **request))


def save(run: Variant, *, path: str) -> dict[str, Any]:
    """Runs once and keeps the result."""
    np.save(path, np.asarray(run()))
    return {"saved": path}


def measure(run: Variant, *, seconds: float) -> dict[str, Any]:
    """Runs for at least `seconds`, in one piece; wall and processor seconds are those of one run."""
    calls, wall, processor = 0, 0.0, 0.0
    while wall < seconds:
        # as many at a time as should do: the clock is read rarely
        count = max(1, math.ceil((seconds - wall) * calls / wall)) if calls else 1
        began, processor_began = time.perf_counter(), time.process_time()
        for _ in range(count):
            run()
        wall += time.perf_counter() - began
        processor += time.process_time() - processor_began
        calls += count
    return {"calls": calls, "wall": wall / calls, "processor": processor / calls}


def memory(run: Variant) -> dict[str, Any]:
    """Peak of the process's memory in MB by the system's account, since it began."""
    return {"peak_mb": peak_memory_mb()}


def peak_memory_mb() -> float:
    """VmHWM of this process (Linux)."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def versions() -> dict[str, str]:
    """Those of the packages that results depend on, of the ones that are installed here."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


ANSWERS: dict[str, Callable[..., dict[str, Any]]] = {"save": save, "time": measure, "memory": memory}

if __name__ == "__main__":
    main()
