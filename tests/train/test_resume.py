"""A run that was killed, at whatever moment, ends with the very weights of an unbroken one."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from support.training_runs import make_squares, squares_recipe, start_run

from deeplab.errors import UserError
from deeplab.model.checkpoint import load
from deeplab.train.recipe import Recipe
from deeplab.train.run import train
from deeplab.train.run_folder.checkpointing import CHECKPOINT_NAME, parse_checkpoint

STEPS = 12
PATIENCE = 120.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_squares(tmp_path_factory.mktemp("squares"), side=40, photos=9)


def small_recipe(data: Path, **changes: object) -> Recipe:
    """All that a checkpoint holds is in use: dropout, momentum, moving average, schedule, best."""
    settings = {
        "steps": STEPS,
        "batch_size": 4,
        "accumulate": 2,
        "average": 0.5,
        "save_every": 2,
        "validate_every": 3,
        "warmup_steps": 4,
    }
    recipe = squares_recipe(data, **(settings | changes))
    return recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"crop": (33, 33)})})


def wait_until(event: Callable[[], bool], process: BaseProcess) -> None:
    """Until `event`, or the process's own end."""
    deadline = time.monotonic() + PATIENCE
    while not event() and process.is_alive():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.002)


def kill(process: BaseProcess) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def finish(process: BaseProcess) -> None:
    process.join(PATIENCE)
    assert process.exitcode == 0


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / CHECKPOINT_NAME
    return parse_checkpoint(path.read_bytes(), str(path)).tensors


def assert_same_run(folder: Path, unbroken: Path) -> None:
    ours, theirs = tensors(folder), tensors(unbroken)
    assert ours.keys() == theirs.keys()
    assert [name for name, value in theirs.items() if not torch.equal(value, ours[name])] == []
    for part in (".", "best"):
        first, second = load(folder / part).state_dict(), load(unbroken / part).state_dict()
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    losses = [
        [json.loads(line).get("loss") for line in (run / "log.jsonl").read_text().splitlines()]
        for run in (folder, unbroken)
    ]
    assert losses[0] == losses[1]


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    finish(start_run(small_recipe(data), folder))
    return folder


def test_killed_at_random_moments(data: Path, unbroken: Path, tmp_path: Path) -> None:
    folder, moments = tmp_path / "run", random.Random(4)
    log = folder / "log.jsonl"
    for lines in (1, 4, 8):
        process = start_run(small_recipe(data), folder, resume=True)
        wait_until(lambda n=lines: log.exists() and log.read_text().count("\n") >= n, process)
        time.sleep(moments.uniform(0, 0.03))
        kill(process)
    # data workers change nothing
    finish(start_run(small_recipe(data).model_copy(update={"workers": 1}), folder, resume=True))
    assert_same_run(folder, unbroken)
    record = json.loads((folder / "run.json").read_text())
    assert len(record["resumed after"]) >= 1 and record["resumed after"] == sorted(record["resumed after"])


def test_killed_while_a_checkpoint_is_written(data: Path, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole, size = folder / CHECKPOINT_NAME, (unbroken / CHECKPOINT_NAME).stat().st_size

    def half_written() -> bool:
        """Nothing else that a run writes is as large."""
        try:
            return any(path.stat().st_size > 0.9 * size for path in folder.glob(".*.tmp"))
        except FileNotFoundError:
            return False

    # the first one that appears, and one that would replace an older one
    for older in (False, True):
        process = start_run(small_recipe(data), folder, resume=True, slow_disk=0.05)
        wait_until(lambda older=older: half_written() and whole.exists() == older, process)
        kill(process)
        assert half_written()
    finish(start_run(small_recipe(data), folder, resume=True))
    assert not list(folder.rglob(".*.tmp"))
    assert_same_run(folder, unbroken)


def test_two_runs_in_one_folder_are_refused(data: Path, tmp_path: Path) -> None:
    """Also with --resume, while the first is alive."""
    folder = tmp_path / "run"
    first = start_run(small_recipe(data, steps=5000), folder)
    wait_until(lambda: (folder / "log.jsonl").exists(), first)
    with pytest.raises(UserError, match="another process is training into"):
        train(small_recipe(data, steps=5000), folder, device="cpu", resume=True)
    kill(first)


def test_resuming_a_finished_run_changes_nothing(unbroken: Path, data: Path) -> None:
    before = tensors(unbroken)
    train(small_recipe(data), unbroken, device="cpu", resume=True)
    after = tensors(unbroken)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_best_is_the_best_validation(unbroken: Path) -> None:
    lines = [json.loads(line) for line in (unbroken / "log.jsonl").read_text().splitlines()]
    validations = {line["validated_after"]: line["mean IoU"] for line in lines if "validated_after" in line}
    assert set(validations) == {3, 6, 9, 12}
    best = load(unbroken / "best").provenance
    assert best["validation"]["mean IoU"] == validations[best["step"]] == max(validations.values())
    assert json.loads((unbroken / "run.json").read_text())["best"]["step"] == best["step"]


def test_another_run_in_the_folder_is_refused(unbroken: Path, data: Path) -> None:
    with pytest.raises(UserError, match=r"holds a run already .*--resume"):
        train(small_recipe(data), unbroken, device="cpu")


def test_a_changed_recipe_is_refused_by_key(unbroken: Path, data: Path) -> None:
    with pytest.raises(UserError, match=r"optimise.learning_rate is 0.1, the run has 0.2"):
        train(small_recipe(data, learning_rate=0.1), unbroken, device="cpu", resume=True)


def test_changed_data_are_refused(unbroken: Path, tmp_path: Path) -> None:
    other = make_squares(tmp_path / "other", side=44, photos=9)
    with pytest.raises(UserError, match="names or sizes of the training data changed"):
        train(small_recipe(other), unbroken, device="cpu", resume=True)


def test_a_broken_checkpoint_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"\x20" * 64)
    with pytest.raises(UserError, match=f"{CHECKPOINT_NAME} is no training checkpoint"):
        train(small_recipe(data), tmp_path, device="cpu", resume=True)
