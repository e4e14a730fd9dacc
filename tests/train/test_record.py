"""What a run leaves behind and what a person sees of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from support.training_runs import make_squares, squares_recipe

from deeplab.cli.training_display import TrainingProgress, training_display
from deeplab.data.opening import open_split
from deeplab.errors import UserError
from deeplab.train.keeper import Watcher
from deeplab.train.loop import StepReport
from deeplab.train.recipe import Recipe, read_recipe
from deeplab.train.run import train
from deeplab.train.run_folder import record
from deeplab.train.run_folder.log import RunLog


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    data = make_squares(tmp_path_factory.mktemp("data") / "squares", side=40, photos=6)
    return squares_recipe(data, steps=4, batch_size=2, samples_every=2, validate_every=2)


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    pytest.importorskip("tensorboardX")
    folder, news = tmp_path_factory.mktemp("run"), []
    train(
        recipe,
        folder,
        device="cpu",
        watcher=Watcher(lambda report: None, lambda: None, news.append),
        tensorboard=True,
    )
    return folder, news


def test_the_folder(finished: tuple[Path, list[str]]) -> None:
    folder, news = finished
    expected = {"recipe.yaml", "run.json", "log.jsonl", "checkpoint.safetensors", "model.safetensors"}
    expected |= {"config.json", "best", "samples", "tensorboard"}
    assert {path.name for path in folder.iterdir() if path.name != ".lock"} == expected
    assert [line.partition(" after")[2] for line in news] == [" step 2", " step 4"]


def test_its_recipe_repeats_the_run(finished: tuple[Path, list[str]], recipe: Recipe) -> None:
    """Every value is there, and reading it gives the same recipe."""
    path = finished[0] / "recipe.yaml"
    again = read_recipe(path)
    assert again.model_dump(exclude={"data": {"layout"}}) == recipe.model_dump(exclude={"data": {"layout"}})
    written = yaml.safe_load(path.read_text())
    assert written["optimise"]["schedule"]["policy"] == "poly"
    assert written["optimise"].keys() == type(recipe.optimise).model_fields.keys()


def test_run_json(finished: tuple[Path, list[str]]) -> None:
    values = json.loads((finished[0] / "run.json").read_text())
    assert values["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert {
        "recipe",
        "recipe sha256",
        "seed",
        "start",
        "data sha256",
        "git revision",
        "command",
    } <= values.keys()
    assert "root" not in values["recipe"]["data"]
    assert values["best"]["mean IoU"] >= values["validation"]["mean IoU"]


def test_log_has_speed_and_data_wait(finished: tuple[Path, list[str]]) -> None:
    lines = [json.loads(line) for line in (finished[0] / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step" in line]
    assert all(line["images_per_second"] > 0 and 0 <= line["data_wait"] <= 1 for line in steps)
    assert [line["validated_after"] for line in lines if "step" not in line] == [2, 4]


def test_samples_show_photo_prediction_and_truth(finished: tuple[Path, list[str]]) -> None:
    files = sorted((finished[0] / "samples").iterdir())
    assert [file.name for file in files] == ["step-000002.png", "step-000004.png"]
    with Image.open(files[0]) as sheet:
        # two validation photos of 40 x 40, three pictures each
        assert sheet.size == (3 * 40, 2 * 40)


def test_tensorboard_reads_the_scalars(finished: tuple[Path, list[str]]) -> None:
    """The file's bytes hold the tags; TensorBoard itself is a server and no dependency."""
    (events,) = (finished[0] / "tensorboard").iterdir()
    content = events.read_bytes()
    for tag in (b"train/loss", b"train/learning_rate", b"validation/mean_iou", b"validation_iou/red"):
        assert tag in content


def test_tensorboard_without_its_extra_is_told(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"\[tensorboard\]"):
        train(recipe, tmp_path, device="cpu", tensorboard=True)


def test_data_fingerprint_is_of_names_and_sizes(recipe: Recipe, tmp_path: Path) -> None:
    def fingerprint(root: Path) -> str:
        data = recipe.data.model_copy(update={"root": root})
        return record.data_fingerprint(open_split(data, "train").source)

    first = make_squares(tmp_path / "first", side=40, photos=6)
    same = make_squares(tmp_path / "elsewhere", side=40, photos=6)
    assert fingerprint(first) == fingerprint(same) == fingerprint(recipe.data.root)
    photo = next((same / "JPEGImages").glob("photo0.png"))
    photo.write_bytes(photo.read_bytes() + b"\0")
    assert fingerprint(first) != fingerprint(same)


def test_git_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record.git_revision() is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *words], check=True)
    revision = record.git_revision()
    assert revision is not None and len(revision) == 40
    (tmp_path / "file").write_text("2")
    assert record.git_revision() == f"{revision}+changes"


def test_log_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    lines = [{"step": 0}, {"step": 1}, {"validated_after": 2}, {"step": 2}, {"validated_after": 3}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo'
    (tmp_path / "log.jsonl").write_text(text)
    RunLog(tmp_path, first_step=2).close()
    kept = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert kept == lines[:3]


def reports(count: int) -> list[StepReport]:
    return [
        StepReport(step, loss=2.0 - step, learning_rate=0.01, photos=8, seconds=0.5, waited=0.1)
        for step in range(count)
    ]


def test_figures_of_the_display() -> None:
    progress = TrainingProgress(10, device="cpu")
    for report in reports(2):
        progress.add(report)
    figures = progress.figures()
    memory = figures.pop("memory")
    assert figures == {
        "step": "2/10",
        "loss": "1.5000",
        "learning rate": "1.00e-02",
        "images/s": "16.0",
        "data wait": "20%",
        "left": "0:00:04",
    }
    assert memory.endswith("GB")
    assert [column.header for column in progress.table().columns][:2] == ["step", "loss"]


def test_quiet_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with training_display(120, device="cpu") as watcher:
        for report in reports(120):
            watcher.on_step(report)
        watcher.on_photo()
        watcher.on_news("mean IoU 0.5 after step 120")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "step 50/120",
        "step 100/120",
        "step 120/120",
        "mean IoU 0.5 after step 120",
    ]
