"""A run that was killed, at whatever moment, ends with the very weights of an unbroken one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from support.training_runs import make_squares, squares_recipe, start_run

from deeplab.errors import UserError
from deeplab.model.checkpoint import load
from deeplab.train.keeper import SILENT
from deeplab.train.recipe import Recipe
from deeplab.train.recipe.schedule import scheduled_rate
from deeplab.train.run import train
from deeplab.train.run_folder.checkpointing import BEFORE_NAME, CHECKPOINT_NAME, parse_checkpoint

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


def test_one_seed_makes_the_same_bits(data: Path, unbroken: Path, tmp_path: Path) -> None:
    finish(start_run(small_recipe(data), tmp_path / "again"))
    assert_same_run(tmp_path / "again", unbroken)
    finish(start_run(small_recipe(data).model_copy(update={"seed": 1}), tmp_path / "other"))
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "other", unbroken)


def test_killed_behind_the_last_validation(data: Path, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    (folder / "run.json").unlink()
    finish(start_run(small_recipe(data), folder, resume=True))
    assert_same_run(folder, unbroken)
    assert (folder / "run.json").is_file()


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
    before = {path: path.read_bytes() for path in unbroken.rglob("*") if path.is_file()}
    found = train(small_recipe(data), unbroken, device="cpu", resume=True)
    assert before == {path: path.read_bytes() for path in unbroken.rglob("*") if path.is_file()}
    result = json.loads((unbroken / "run.json").read_text())["validation"]
    assert round(found.mean_iou(), 4) == result["mean IoU"]


def test_a_run_that_has_ended_is_extended(unbroken: Path, data: Path, tmp_path: Path) -> None:
    folder, longer, news = tmp_path / "run", STEPS + 5, []
    shutil.copytree(unbroken, folder)
    before = (folder / "log.jsonl").read_text().splitlines()
    train(
        small_recipe(data, steps=longer),
        folder,
        device="cpu",
        resume=True,
        watcher=SILENT._replace(on_news=news.append),
    )
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["learning_rate"] for line in log if "learning_rate" in line}
    settings = small_recipe(data, steps=longer).optimise
    expected = [
        scheduled_rate(step, settings.schedule, base=settings.learning_rate, total_steps=longer)
        for step in range(STEPS, longer)
    ]
    assert [rates[step] for step in range(STEPS, longer)] == pytest.approx(expected, rel=1e-3)
    assert len(rates) == longer and expected[-1] < rates[STEPS - 1] < expected[0]
    assert [line for line in before if "learning_rate" in line] == [
        line for line in (folder / "log.jsonl").read_text().splitlines() if "learning_rate" in line
    ][:STEPS]
    (told,) = [line for line in news if line.startswith(f"extended from {STEPS} to {longer} steps")]
    assert f"(poly) is that of {longer} steps" in told and told.endswith(f" to {expected[0]:.3g}")
    record = json.loads((folder / "run.json").read_text())
    assert record["extended from"] == [STEPS] and record["resumed after"] == [STEPS]
    assert record["recipe"]["optimise"]["steps"] == longer
    with pytest.raises(UserError, match=f"optimise.steps is {STEPS}, the run has {longer}"):
        train(small_recipe(data), folder, device="cpu", resume=True)


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


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """The file with changed tensors, and all else that it says as it was."""
    stored = path.read_bytes()
    metadata = json.loads(stored[8 : 8 + int.from_bytes(stored[:8], "little")])["__metadata__"]
    tensors = from_bytes(stored)
    change(tensors)
    path.write_bytes(to_bytes(tensors, metadata=metadata))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def name_of(tensors: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in sorted(tensors) if name.startswith(part))


HARMS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "short": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "no checkpoint": lambda path: path.write_bytes(b"\x20" * 64),
    "a bit of the header": lambda path: flip(path, 400),
    "a bit of the weights": lambda path: flip(path, -1000),
    "NaN": lambda path: rewritten(path, lambda t: t[name_of(t, "model/")].fill_(torch.nan)),
    "no momentum": lambda path: rewritten(path, lambda t: t.pop(name_of(t, "optimiser/"))),
    "another shape": lambda path: rewritten(
        path, lambda t: t.update({name_of(t, "optimiser/"): torch.zeros(3, 1)})
    ),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_of_a_damaged_checkpoint_the_one_before_is_used(
    harm: Callable[[Path], object], data: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder, news = tmp_path / "run", []
    shutil.copytree(unbroken, folder)
    harm(folder / CHECKPOINT_NAME)
    watcher = SILENT._replace(on_news=news.append)
    train(small_recipe(data), folder, device="cpu", resume=True, watcher=watcher)
    assert f"{folder / CHECKPOINT_NAME}: " in news[0] and news[0].endswith("is used, of step 10")
    # and is still there, where the damaged one would have replaced it
    assert parse_checkpoint((folder / BEFORE_NAME).read_bytes(), "it").step == 10
    assert_same_run(folder, unbroken)


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_without_a_whole_checkpoint_nothing_is_touched(
    harm: Callable[[Path], object], data: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    (folder / BEFORE_NAME).unlink()
    harm(folder / CHECKPOINT_NAME)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"{CHECKPOINT_NAME}: .*--overwrite"):
        train(small_recipe(data), folder, device="cpu", resume=True)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_lost_between_two_renames_costs_its_steps_only(
    data: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    (folder / CHECKPOINT_NAME).unlink()
    train(small_recipe(data), folder, device="cpu", resume=True)
    assert_same_run(folder, unbroken)


def test_a_run_is_overwritten_when_asked_for(data: Path, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    with pytest.raises(UserError, match="leave one of them out"):
        train(small_recipe(data), folder, device="cpu", resume=True, overwrite=True)
    train(small_recipe(data, steps=2, validate_every=0), folder, device="cpu", overwrite=True)
    assert parse_checkpoint((folder / CHECKPOINT_NAME).read_bytes(), "it").step == 2
    assert not (folder / "best").exists() and not (folder / BEFORE_NAME).exists()
