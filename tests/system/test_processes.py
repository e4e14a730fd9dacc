"""Several processes compute what one computes of the whole batch, and none hangs when another dies.

The processes are forks that talk through gloo; one test goes through torchrun itself.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.distributed_runs import (
    PATIENCE,
    gradients_of_batch,
    in_processes,
    normalised,
    train_here,
    weights_after_updates,
)
from support.training_runs import make_squares, squares_recipe

from deeplab.errors import UserError
from deeplab.layers.norm import BatchNorm2d
from deeplab.layers.sync_norm import synchronise
from deeplab.model.checkpoint import load
from deeplab.system.processes import World
from deeplab.train.batches import UpdateSampler


def whole_norm(x: torch.Tensor, upstream: torch.Tensor) -> dict[str, torch.Tensor]:
    """PyTorch's own batch norm over the whole batch, as the oracle."""
    norm = torch.nn.BatchNorm2d(x.shape[1], eps=1e-3, momentum=0.3)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, x.shape[1]))
        norm.bias.copy_(torch.linspace(-1, 1, x.shape[1]))
    x = x.clone().requires_grad_()
    y = norm(x)
    y.backward(upstream)
    return {
        "y": y.detach(),
        "x": x.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "mean": norm.running_mean,
        "var": norm.running_var,
    }


@pytest.mark.parametrize("sizes", [(3, 2), (1, 4, 1, 2)])
def test_sync_norm_is_the_norm_of_the_whole_batch(sizes: tuple[int, ...]) -> None:
    """Uneven shares too; a large mean shows cancellation."""
    torch.manual_seed(0)
    x = torch.randn(sum(sizes), 3, 5, 4) * torch.tensor([1.0, 0.1, 5.0]).view(1, 3, 1, 1) + 20
    upstream = torch.randn_like(x)
    whole = whole_norm(x, upstream)
    parts = in_processes(len(sizes), normalised, x, upstream, sizes)
    tolerance = {"rtol": 1e-5, "atol": 2e-5}
    for name in ("y", "x"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole[name], **tolerance)
    for name in ("weight", "bias"):
        torch.testing.assert_close(sum(part[name] for part in parts), whole[name], rtol=1e-4, atol=1e-4)
    for part in parts:
        torch.testing.assert_close(part["mean"], whole["mean"], **tolerance)
        torch.testing.assert_close(part["var"], whole["var"], **tolerance)


def test_sync_norm_of_one_value_uses_running_statistics() -> None:
    x = torch.full((1, 3, 1, 1), 7.0)
    (part,) = in_processes(1, normalised, x, torch.ones_like(x), (1,))
    # running mean 0 and variance 1: x / sqrt(1 + eps) * weight + bias
    expected = 7 / (1 + 1e-3) ** 0.5 * torch.linspace(0.5, 1.5, 3) + torch.linspace(-1, 1, 3)
    torch.testing.assert_close(part["y"].flatten(), expected)
    assert torch.equal(part["mean"], torch.zeros(3)) and torch.equal(part["var"], torch.ones(3))


def test_norms_that_do_more_are_refused() -> None:
    class NormAndActivation(torch.nn.BatchNorm2d):
        pass

    with pytest.raises(UserError, match=r"NormAndActivation.*sync_norm: false"):
        synchronise(torch.nn.Sequential(NormAndActivation(2)), device="cuda")


def test_torchs_own_norm_is_used_on_gpus() -> None:
    """Its parameters and buffers are the same objects, so that optimiser and moving average go on with them."""
    model = torch.nn.Sequential(BatchNorm2d(2, eps=0.5, momentum=0.25))
    before = model.state_dict(keep_vars=True)
    model = synchronise(model, device="cuda:1")
    assert isinstance(model[0], torch.nn.SyncBatchNorm) and (model[0].eps, model[0].momentum) == (0.5, 0.25)
    assert all(value is before[name] for name, value in model.state_dict(keep_vars=True).items())


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Seven photos: no process has as many as another, and the last has no valid pixel."""
    torch.manual_seed(1)
    images = torch.randint(0, 256, (7, 3, 33, 33), dtype=torch.uint8)
    labels = torch.randint(0, 3, (7, 33, 33), dtype=torch.uint8)
    labels[:3, :20] = 255
    labels[3] = 255
    return images, labels


def test_several_updates_of_processes_are_those_of_one(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    (whole,) = in_processes(1, weights_after_updates, *batch, 4)
    for part in in_processes(2, weights_after_updates, *batch, 4):
        assert part["losses"] == pytest.approx(whole["losses"], rel=1e-5)
        for name, value in whole["weights"].items():
            torch.testing.assert_close(part["weights"][name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_compute_what_one_computes(count: int, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Loss, gradients and running statistics; of 4 processes one has no valid pixel at all."""
    (whole,) = in_processes(1, gradients_of_batch, *batch, 1)
    parts = in_processes(count, gradients_of_batch, *batch, 1)
    for part in parts:
        assert part["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        for name, value in whole["gradients"].items():
            largest = value.abs().max().item()
            torch.testing.assert_close(part["gradients"][name], value, rtol=1e-4, atol=1e-5 * largest + 1e-9)
        for name, value in whole["statistics"].items():
            torch.testing.assert_close(part["statistics"][name], value, rtol=1e-6, atol=1e-7)


def test_no_valid_pixel_anywhere_is_no_nan(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = batch
    for part in in_processes(2, gradients_of_batch, images, torch.full_like(labels, 255), 1):
        assert part["loss"] == 0
        assert all((value == 0).all() for value in part["gradients"].values())


def test_an_update_holds_the_same_photos_for_any_number_of_processes() -> None:
    settings = {"seed": 3, "batch_size": 7, "first_step": 0, "steps": 5}
    whole = [sorted(keys) for keys in UpdateSampler(10, accumulate=1, **settings)]
    for size, accumulate in ((1, 3), (2, 1), (3, 2)):
        updates: list[list] = [[] for _ in range(5)]
        for rank in range(size):
            sampler = UpdateSampler(10, accumulate=accumulate, world=World(rank, size), **settings)
            batches = list(sampler)
            assert len(batches) == len(sampler) == 5 * accumulate and all(batches)
            for number, keys in enumerate(batches):
                updates[number // accumulate] += keys
            assert sorted(sampler.keys_of_step(4)) == sorted(itertools.chain(*batches[4 * accumulate :]))
        assert [sorted(keys) for keys in updates] == whole


def test_fewer_photos_than_processes_are_refused() -> None:
    with pytest.raises(UserError, match=r"batch_size is 3, too few photos for 2 processes.*4 or more"):
        UpdateSampler(10, seed=0, batch_size=3, accumulate=2, first_step=0, steps=1, world=World(0, 2))


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_whole_run_of_two_processes_and_its_resume(tmp_path: Path) -> None:
    """It is the run of one process; only the main one writes; broken in the middle, it ends the same."""
    data = make_squares(tmp_path / "data", side=40, photos=9)
    values = squares_recipe(data, steps=4, batch_size=3, save_every=2).model_dump(mode="json")
    values["model"]["context"]["dropout"] = 0.0
    in_processes(1, train_here, values, tmp_path / "alone", False, None)
    first = in_processes(2, train_here, values, tmp_path / "whole", False, None)
    assert first[0] == first[1]
    broken = in_processes(2, train_here, values, tmp_path / "broken", False, 2)
    assert all("stopped on purpose" in result for result in broken)
    assert in_processes(2, train_here, values, tmp_path / "broken", True, None) == first
    whole, resumed = load(tmp_path / "whole").state_dict(), load(tmp_path / "broken").state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert len(logged(tmp_path / "whole")) == 4 + 1
    # only the first: in float32 such tiny batches soon blow rounding up
    first_loss, alone = logged(tmp_path / "whole")[0]["loss"], logged(tmp_path / "alone")[0]["loss"]
    assert first_loss == pytest.approx(alone, rel=1e-5)


def test_a_process_that_dies_ends_the_others(tmp_path: Path) -> None:
    """Through torchrun: a clear message, an exit code, no hang."""
    data = make_squares(tmp_path / "data", side=40, photos=9)
    recipe = tmp_path / "recipe.yaml"
    values = squares_recipe(data, steps=2000, batch_size=2).model_dump(mode="json")
    recipe.write_text(yaml.safe_dump(values))
    # one process ends without a word in its third update, as if it had been killed
    (tmp_path / "dying.py").write_text(
        "import os, sys, torch\n"
        "from deeplab.cli.app import main\n"
        "from deeplab.train import keeper\n"
        "torch.set_num_threads(1)\n"
        "after_step = keeper.Keeper.after_step\n"
        "def fatal(self, report):\n"
        "    after_step(self, report)\n"
        "    if self.world.rank == 1 and report.step == 2:\n"
        "        os._exit(9)\n"
        "keeper.Keeper.after_step = fatal\n"
        "main(sys.argv[1:])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         # torchrun looks whether all live, and would end rank 0 before it has said why
         "--monitor-interval", "5",
         str(tmp_path / "dying.py"), "train", str(recipe), "-o", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode != 0
    assert "rank 0 of 2 lost contact with another process" in ended.stderr
    assert "--resume" in ended.stderr
    assert "exitcode" in ended.stderr and ": 9" in ended.stderr
