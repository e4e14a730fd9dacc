"""Without the extras and peers, or with broken ones, everything imports and the main job runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("core_only.py")
SECONDS = 120


def test_every_module_and_the_main_job_run_on_the_core_dependencies() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "modules and the main job run with torch" in done.stdout
