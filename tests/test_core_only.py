"""Without the extras and peers, or with broken ones, everything imports and the main job runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_name("core_only.py")
SECONDS = 120


def test_every_module_and_the_main_job_run_on_the_core_dependencies() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "modules and the main job run with torch" in done.stdout


def test_hashes_are_those_of_the_pinned_packages() -> None:
    pinned = re.findall(r"^[\w.-]+==\S+", (ROOT / "constraints.txt").read_text(), re.M)
    text = (ROOT / "constraints-hashes.txt").read_text()
    hashed = re.findall(r"^[\w.-]+==\S+(?=.*\\\n +--hash=sha256:[0-9a-f]{64})", text, re.M)

    def normal(lines: list[str]) -> set[str]:
        return {re.sub(r"[-_.]+(?=.*==)", "-", line).lower() for line in lines}

    assert normal(pinned) - normal(hashed) == {next(line for line in pinned if line.startswith("torch=="))}
    assert normal(hashed) < normal(pinned), "make hashes"
