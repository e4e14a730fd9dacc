"""`deeplab serve` as a process: signals, workers, and what it says."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.servers import Client, command, noise, png, until

pytest.importorskip("fastapi")

from deeplab.errors import UserError


def children(pid: int) -> list[str]:
    """Processes that a process started and that live."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.split()


def eight_in_flight(client: Client, threads: ThreadPoolExecutor) -> list[Any]:
    photos = [png(noise(600, 600, seed)) for seed in range(8)]
    asked = [threads.submit(client.segment, photo) for photo in photos]
    until(lambda: b"places_taken 8.0" in client.get("/metrics").body)
    return asked


def test_a_signal_to_stop_finishes_what_is_in_flight(squares_model: Path, tmp_path: Path) -> None:
    with (
        command("-m", squares_model, "--drain", 0.5, "--output-stride", 8, log=tmp_path / "log") as (
            process,
            client,
        ),
        ThreadPoolExecutor(8) as threads,
    ):
        asked = eight_in_flight(client, threads)
        process.send_signal(signal.SIGTERM)
        assert [each.result().status for each in asked] == [200] * 8
        assert process.wait(30) == 0
        assert "Traceback" not in (tmp_path / "log").read_text()
        with pytest.raises(ConnectionRefusedError):
            client.get("/healthz")


def test_workers_serve_one_port_and_end_together(squares_model: Path, tmp_path: Path) -> None:
    with command("-m", squares_model, "--workers", 2, "--drain", 0.2, log=tmp_path / "log") as (
        process,
        client,
    ):
        photo = png(noise(50, 60))
        workers = children(process.pid)
        assert {client.segment(photo).status for _ in range(12)} == {200}
        # of all processes, whichever is asked
        assert b'path="/v1/segment",status="200"} 12.0' in client.get("/metrics").body
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_workers_do_not_outlive_a_killed_parent(squares_model: Path, tmp_path: Path) -> None:
    with command("-m", squares_model, "--workers", 2, log=tmp_path / "log") as (process, _):
        workers = children(process.pid)
        assert len(workers) >= 2
        process.kill()
        process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_a_place_to_count_has_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deeplab.serve.server import _counts

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with _counts(2) as folder:
        assert Path(folder).parent == tmp_path and not list(Path(folder).iterdir())
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=rf"^{tmp_path}.*the disk is full.* TMPDIR"), _counts(2):
        pass
    assert not list(tmp_path.iterdir())


def test_mistakes_are_told_before_anything_is_served(deeplab: Any, tmp_path: Path) -> None:
    code, _, err = deeplab("serve", "-m", "nothing-there", "--port", 0)
    assert code == 2 and "no model 'nothing-there'" in err
    code, _, err = deeplab("serve", "-m", "animals", "-m", "animals", "--port", 0)
    assert code == 2 and "two models are called 'animals'; fix: --model ANOTHER_NAME=PATH" in err
    for words, told in (
        (("--queue", 0), "queue is 0; allowed"),
        (("--workers", 0), "workers is 0; allowed"),
        (("--host", "203.0.113.1"), "203.0.113.1:8000 cannot be listened at"),
        (("--token-file", tmp_path / "none"), "none: cannot be read"),
        (("--scales", 0), "scales (0.0,)"),
    ):
        code, _, err = deeplab("serve", *words)
        assert code == 2 and told in err
    assert os.environ.pop("OMP_WAIT_POLICY")
