"""Starting a worker and talking to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BENCHMARKS = Path(__file__).resolve().parents[1]


class VariantFailedError(RuntimeError):
    """The worker ended before it answered; the message is the end of what it printed."""


class Variant(NamedTuple):
    """What a worker runs: `module.function(**arguments)`, with `python` if not the one that measures."""

    name: str
    module: str
    function: str
    arguments: dict[str, Any]
    python: str = sys.executable


class Worker:
    """A process that holds one variant, on the first `threads` processors and on as many threads.

    Raises:
        VariantFailedError: here and in every method, if it cannot be built or run.
    """

    def __init__(self, variant: Variant, *, threads: int, log: Path) -> None:
        self.name = variant.name
        self._log = log
        command = [variant.python, "-m", "harness.worker", variant.module, variant.function]
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [*command, json.dumps(variant.arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=BENCHMARKS,
                env=os.environ | environment(threads),
            )
        # inherited by all threads that the worker will have: it has imported nothing yet
        os.sched_setaffinity(self._process.pid, processors(threads))
        self.versions: dict[str, str] = {}

    def wait(self) -> None:
        """Until the variant is built."""
        self.versions = self._answer()["versions"]

    def output(self, folder: Path) -> np.ndarray:
        """The result of one run."""
        path = folder / f"{self.name.replace(' ', '_')}.npy"
        self._ask(do="save", path=str(path.resolve()))
        return np.load(path)

    def time(self, seconds: float) -> dict[str, float]:
        """calls, and wall and processor seconds of one call."""
        return self._ask(do="time", seconds=seconds)

    def peak_memory_mb(self) -> float:
        """Of the whole process since it began, in MB."""
        return self._ask(do="memory")["peak_mb"]

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def _ask(self, **request: Any) -> dict[str, Any]:
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise VariantFailedError(self._last_words()) from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise VariantFailedError(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        code = self._process.wait()
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"{self.name} ended with code {code}: {' / '.join(lines[-3:])[:600]} (all of it: {self._log})"


def environment(threads: int) -> dict[str, str]:
    """What fixes the number of torch's threads, and where workers find the variants."""
    paths = [str(BENCHMARKS), str(BENCHMARKS.parent / "tests"), os.environ.get("PYTHONPATH", "")]
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


def processors(count: int) -> set[int]:
    """The first `count` of those that this process may use."""
    return set(sorted(os.sched_getaffinity(0))[:count])
