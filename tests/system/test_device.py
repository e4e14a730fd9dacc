"""Every command chooses its device alike, and says in a sentence what this machine does not have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.training_runs import make_squares, squares_recipe

from deeplab.cli.app import main
from deeplab.errors import UserError
from deeplab.system.device import pick_device
from deeplab.system.processes import own_device
from deeplab.train.run import train


def test_auto_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_cuda, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=has_cuda: answer)
        assert pick_device("auto") == torch.device(name)


def test_each_process_of_torchrun_looks_at_its_own_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []

    def look(_size: int, *, device: torch.device) -> None:
        looked_at.append(str(device))

    monkeypatch.setattr(torch, "empty", look)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [own_device(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:3",
        "cuda:3",
        "cuda:1",
        "cpu",
    ]
    assert looked_at == ["cuda:3", "cuda:3", "cuda:1", "cpu"]


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
@pytest.mark.parametrize("command", ["train", "eval", "predict", "crf"])
def test_a_device_that_is_not_here_is_one_sentence(
    command: str, device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_squares(tmp_path / "data")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(squares_recipe(data, steps=1).model_dump_json(), encoding="utf-8")
    words = {
        "train": [str(recipe), "-o", str(tmp_path / "run")],
        "eval": [str(data)],
        "predict": [str(data), "-o", str(tmp_path / "out")],
        "crf": ["search", str(data), "-o", str(tmp_path / "crf.json")],
    }
    with pytest.raises(SystemExit) as ended:
        main([command, *words[command], "--device", device])
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2
    assert said.startswith(f"deeplab: device '{device}' cannot be used here (")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_training_in_python_refuses_it_too(tmp_path: Path) -> None:
    recipe = squares_recipe(make_squares(tmp_path / "data"), steps=1)
    with pytest.raises(UserError, match="device 'gpu' cannot be used here"):
        train(recipe, tmp_path / "run", device="gpu")
