"""`deeplab eval` with every measure: what it writes, against loops over the same files, and over processes."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.distributed_runs import in_processes
from support.evaluation_runs import CLASSES, everything
from support.training_runs import make_squares

from deeplab import DeepLab, DeepLabConfig, LabelSpec, Segmenter
from deeplab.cli.app import main
from deeplab.config import ASPPConfig, backbone_config
from deeplab.evaluation.calibration import Bin
from deeplab.evaluation.report.chart import reliability_chart, trimap_chart
from deeplab.evaluation.report.confusion_picture import draw_confusion


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_squares(tmp_path_factory.mktemp("squares") / "data", side=48, photos=9)


def photo(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def save_model(folder: Path, data: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = DeepLabConfig(
        backbone=backbone_config("mobilenet_v2", width=0.25),
        context=ASPPConfig(channels=8),
        num_classes=3,
    )
    model = DeepLab(config, LabelSpec.named(CLASSES))
    # an untrained model says one class for all: its norms see the photos, and its mean logits become 0
    images = torch.stack([torch.from_numpy(photo(path)) for path in sorted((data / "JPEGImages").iterdir())])
    with torch.no_grad():
        for _ in range(40):
            model.train()(images.permute(0, 3, 1, 2))
        *_, (_, bias) = ((name, value) for name, value in model.named_parameters() if name.endswith("bias"))
        bias -= model.eval()(images.permute(0, 3, 1, 2)).mean((0, 2, 3))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return save_model(folder / "one", data, 0), save_model(folder / "two", data, 1)


@pytest.fixture
def evaluate(capfd: pytest.CaptureFixture[str], data: Path):
    def run(model: Path, *arguments: object) -> tuple[int, str, str]:
        words = ["eval", data, "-m", model, "--classes", *CLASSES, "--device", "cpu", *arguments]
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        out, err = capfd.readouterr()
        return stopped.value.code or 0, out, err

    return run


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def masks(data: Path) -> dict[str, np.ndarray]:
    names = (data / "ImageSets/Segmentation/val.txt").read_text().split()
    found = {}
    for name in names:
        with Image.open(data / f"SegmentationClass/{name}.png") as mask:
            found[name] = np.array(mask)
    return found


def counted(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    counts = np.zeros((3, 3), int)
    for labels, predictions in pairs:
        for row, column in zip(labels.ravel().tolist(), predictions.ravel().tolist(), strict=True):
            if row != 255:
                counts[row, column] += 1
    return counts


def mean_iou(counts: np.ndarray) -> float:
    scores = []
    for own in range(3):
        union = counts[own].sum() + counts[:, own].sum() - counts[own, own]
        if union:
            scores.append(counts[own, own] / union)
    return sum(scores) / len(scores)


def test_everything_is_written_and_right(evaluate, data: Path, models, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    code, out, err = evaluate(
        models[0],
        "-o",
        folder,
        "--boundaries",
        "--widths",
        1,
        3,
        "--reliability",
        "--bootstrap",
        50,
        "--worst",
        2,
    )
    assert (code, err.count("Traceback")) == (0, 0)
    for words in (
        "mean IoU",
        "95 % interval of mean IoU",
        "within 3 px",
        "boundary F-score",
        "calibration error",
    ):
        assert words in out
    report, segmenter = results(folder), Segmenter(models[0])
    found = {name: segmenter(data / f"JPEGImages/{name}.png", probabilities=True) for name in masks(data)}
    pairs = {name: (labels, found[name].labels.astype(int)) for name, labels in masks(data).items()}
    counts = counted(list(pairs.values()))
    assert (counts.sum(axis=0) > 0).sum() > 1
    assert report["confusion"] == counts.tolist()
    assert report["mean IoU"] == pytest.approx(mean_iou(counts), rel=1e-12)
    assert report["mean IoU by convention"]["cityscapes"] == report["mean IoU"]
    assert report["labelled pixels"] == dict(zip(CLASSES, counts.sum(axis=1).tolist(), strict=True))
    assert report["pixel accuracy"] == pytest.approx(np.trace(counts) / counts.sum(), rel=1e-12)
    assert report["bootstrap"]["estimate"] == report["mean IoU"]
    assert report["bootstrap"]["low"] <= report["mean IoU"] <= report["bootstrap"]["high"]
    by_photo = sorted((mean_iou(counted([pair])), name) for name, pair in pairs.items())
    assert [(one["mean IoU"], one["name"]) for one in report["worst photos"]] == [
        (pytest.approx(score), name) for score, name in by_photo[:2]
    ]
    valid = np.concatenate([labels.ravel() != 255 for labels, _ in pairs.values()])
    sure = np.concatenate([one.probabilities.max(0).ravel() for one in found.values()])[valid]
    assert sum(one["pixels"] for one in report["calibration"]["bins"]) == valid.sum()
    held = sum(one["confidence"] * one["pixels"] for one in report["calibration"]["bins"] if one["pixels"])
    assert held / valid.sum() == pytest.approx(sure.mean(), abs=1e-5)
    assert set(report["boundaries"]["trimap mean IoU"]) == {"1", "3"}
    page = (folder / "report.html").read_text()
    assert page.count("<img ") == 6 and by_photo[0][1] in page
    for name in ("confusion.png", "trimap.png", "reliability.png"):
        with Image.open(folder / name) as picture:
            picture.load()
    assert len(list(folder.iterdir())) == 6


def test_without_an_output_nothing_is_written(evaluate, models, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = evaluate(models[0])
    assert code == 0 and "pixel accuracy" in out and "interval" not in out
    assert not list(tmp_path.iterdir())


def test_windows_as_large_as_the_photos_change_nothing(evaluate, models, tmp_path: Path) -> None:
    for name, window in (("whole", []), ("one", ["--window", 48, 48]), ("many", ["--window", 32, 40])):
        assert evaluate(models[0], "-o", tmp_path / name, "--reliability", *window)[0] == 0
    whole, one, many = (results(tmp_path / name) for name in ("whole", "one", "many"))
    assert (one["confusion"], one["calibration"]) == (whole["confusion"], whole["calibration"])
    assert many["confusion"] != whole["confusion"]
    assert np.sum(many["confusion"]) == np.sum(whole["confusion"])
    assert many["window"] == [32, 40] and whole["window"] is None


def test_windows_are_those_of_predict(evaluate, deeplab, models, data: Path, tmp_path: Path) -> None:
    """The maps that predict writes, scored, are what eval measures."""
    windows = ("--window", 24, 28)
    assert evaluate(models[0], "-o", tmp_path / "measured", *windows)[0] == 0
    names = (data / "ImageSets/Segmentation/val.txt").read_text().split()
    photos = [data / f"JPEGImages/{name}.png" for name in names]
    assert deeplab("predict", *photos, "-m", models[0], "-o", tmp_path / "maps", *windows)[0] == 0
    confusion = np.zeros((3, 3), int)
    for name in names:
        labels, found = (
            np.asarray(Image.open(path))
            for path in (data / f"SegmentationClass/{name}.png", tmp_path / f"maps/{name}_labels.png")
        )
        np.add.at(confusion, (labels[labels < 3], found[labels < 3]), 1)
    assert results(tmp_path / "measured")["confusion"] == confusion.tolist()


def test_a_second_model_is_compared_with_the_first(evaluate, models, tmp_path: Path) -> None:
    assert evaluate(models[0], "-o", tmp_path / "one")[0] == 0
    code, out, _ = evaluate(models[1], "-o", tmp_path / "two", "--against", tmp_path / "one")
    assert code == 0 and "interval of the difference" in out
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    assert two["difference"]["estimate"] == pytest.approx(two["mean IoU"] - one["mean IoU"], abs=1e-15)
    assert two["difference"]["low"] <= two["difference"]["estimate"] <= two["difference"]["high"]
    code, _, err = evaluate(models[1], "--against", tmp_path / "one", "--split", "train")
    assert code == 2 and "of other photos (3, here 6)" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--window", 0, 9], "window 0 x 9"),
        (["--window", 9, 9, "--overlap", 1], "overlap 1.0"),
        (["--boundaries", "--widths", 0], "--widths is 0"),
        (["--edges", "void"], "--widths and --edges would change nothing; allowed: with --boundaries"),
        (["--bootstrap", -1], "--bootstrap is -1"),
        (["--against", "nowhere"], "nowhere: cannot be read"),
        (["--scales", 0], "positive"),
    ],
)
def test_mistakes_get_one_message(evaluate, models, arguments: list, message: str) -> None:
    code, _, err = evaluate(models[0], *arguments)
    assert code == 2 and message in err and "Traceback" not in err


def test_masks_that_are_all_ignored_measure_nothing(deeplab, models, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    for mask in (tmp_path / "data" / "SegmentationClass").iterdir():
        with Image.open(mask) as held:
            Image.new("L", held.size, 255).save(mask)
    code, out, err = deeplab(
        "eval", tmp_path / "data", "-m", models[0], "--classes", *CLASSES, "-o", tmp_path / "out"
    )
    assert code == 2 and "no pixel is labelled" in err and "mean IoU" not in out
    assert not (tmp_path / "out").exists()


def test_processes_give_what_one_gives_to_the_last_bit(data: Path, models) -> None:
    (alone,) = in_processes(1, everything, models[0], data)
    assert alone[0]["photos"] == 6
    assert in_processes(2, everything, models[0], data) == [alone, alone]
    first, second = (Image.open(io.BytesIO(png)) for png in alone[1])
    assert first.size == second.size == (3 * 48 + 8, 48)


def test_confusion_picture_is_dark_where_pixels_are() -> None:
    picture = np.array(draw_confusion(np.array([[8, 0], [4, 4]]), ("cat", "dog")))
    grid = picture[170 : 170 + 88, 170 : 170 + 88]
    # a corner of each cell, beside the number: all, none, half and half
    corners = [grid[4, 4], grid[4, 48], grid[48, 4], grid[48, 48]]
    assert [corner.tolist() for corner in corners] == [
        [16, 52, 120],
        [255] * 3,
        [136, 154, 188],
        [136, 154, 188],
    ]
    # both names of the first class stand before it, below and across; the second has none
    named = np.array(draw_confusion(np.array([[8, 0], [4, 4]]), ("MMMM", " "))).min(axis=2) < 128
    assert named[170:214, :160].any() and not named[220:258, :160].any()
    assert named[90:160, 170:214].any() and not named[90:160, 220:258].any()
    assert draw_confusion(np.eye(150, dtype=np.int64), [f"class {k}" for k in range(150)]).size == (
        1982,
        1982,
    )


def test_charts_of_little() -> None:
    empty = Bin(0.0, 1.0, 0, math.nan, math.nan)
    assert reliability_chart([empty], expected_error=math.nan).size == (720, 480)
    for trimap in ({1: math.nan}, {1: 0.5}, {1: 1.0, 2: 1.0}, {1: 0.0}):
        assert trimap_chart(trimap).size == (720, 480)


def test_reliability_bars_are_as_high_as_the_accuracy() -> None:
    bins = [Bin(0.0, 0.5, 0, math.nan, math.nan), Bin(0.5, 1.0, 7, 0.75, 0.5)]
    picture = np.array(reliability_chart(bins, expected_error=0.25))
    # plot area: rows 70 (100 %) to 416 (0 %), columns 80 (0) to 690 (1)
    column = picture[:, 660]
    blue = np.flatnonzero((column == (38, 92, 170)).all(axis=1))
    assert abs(blue.min() - 243) <= 1 and abs(blue.max() - 416) <= 1
    assert not (picture[:, 200] == (38, 92, 170)).all(axis=1).any()
