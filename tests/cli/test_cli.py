"""The command line as a user meets it: files, exit codes, messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deeplab import DeepLab, DeepLabConfig, LabelSpec, Segmenter
from deeplab.cli.predict import unique_names
from deeplab.config import ASPPConfig, backbone_config

Run = tuple[int, str, str]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("model")
    config = DeepLabConfig(
        backbone=backbone_config("mobilenet_v2", width=0.25),
        context=ASPPConfig(channels=8),
        num_classes=3,
    )
    DeepLab(config, LabelSpec.named(["background", "cat", "dog"])).save_pretrained(folder)
    return folder


def photo(path: Path, *, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_predict_writes_labels_overlays_and_shares(deeplab, model_folder: Path, tmp_path: Path) -> None:
    photos = [photo(tmp_path / "in" / f"{name}.png", seed=seed) for seed, name in enumerate(("a", "b"))]
    code, out, _ = deeplab(
        "predict", tmp_path / "in", "-m", model_folder, "-o", tmp_path / "out", "--device", "cpu"
    )
    assert code == 0
    assert "2 photos labelled" in out
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["photo"] for entry in entries] == [str(path) for path in photos]
    assert sum(entries[0]["shares"].values()) == pytest.approx(1, abs=1e-5)
    expected = Segmenter(model_folder)(photos[0]).labels
    with Image.open(tmp_path / "out" / "a_labels.png") as labels:
        assert labels.mode == "P"
        np.testing.assert_array_equal(np.array(labels), expected)
        colours = np.array(labels.getpalette()).reshape(-1, 3)[:3]
    np.testing.assert_array_equal(colours, LabelSpec.named(["background", "cat", "dog"]).palette)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_side_by_side_photos_are_labelled_as_one_by_one(
    deeplab, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    for seed in range(5):
        photo(tmp_path / "in" / f"{seed}.png", seed=seed)
    try:
        torch.set_num_threads(2)
        for name, largest in (("alone", 0), ("beside", 1 << 19)):
            monkeypatch.setattr("deeplab.cli.predict.LARGEST_BESIDE", largest)
            command = ["predict", tmp_path / "in", "-m", model_folder, "-o", tmp_path / name]
            assert deeplab(*command, "--device", "cpu")[0] == 0
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    files = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert len(files) == 11
    for each in files:
        assert (tmp_path / "alone" / each).read_bytes() == (tmp_path / "beside" / each).read_bytes()


def test_predict_leaves_overlays_out(deeplab, model_folder: Path, tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.png")
    command = ["predict", tmp_path / "in", "-m", model_folder, "-o", tmp_path / "out", "--no-overlay"]
    code, out, _ = deeplab(*command, "--device", "cpu")
    assert code == 0 and "_overlay." not in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a_labels.png", "predictions.json"}
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert "overlay" not in entry


def test_a_broken_photo_is_reported_skipped_and_makes_exit_code_1(
    deeplab, model_folder: Path, tmp_path: Path
) -> None:
    photo(tmp_path / "good.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nonsense")
    code, out, err = deeplab(
        "predict", tmp_path, "-m", model_folder, "-o", tmp_path / "out", "--device", "cpu"
    )
    assert code == 1
    assert "1 photos labelled" in out
    assert "broken.jpg" in err
    assert "Traceback" not in err
    entries = {
        Path(e["photo"]).name: e for e in json.loads((tmp_path / "out" / "predictions.json").read_text())
    }
    assert "error" in entries["broken.jpg"]
    assert "shares" in entries["good.png"]
    assert not list((tmp_path / "out").glob("broken*"))
    code, out, _ = deeplab("predict", tmp_path / "broken.jpg", "-m", model_folder, "-o", tmp_path / "none")
    assert code == 1 and "0 photos labelled" in out and "look at" not in out


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all names are Unicode")
def test_names_that_are_no_utf8_are_in_the_index(deeplab, model_folder: Path, tmp_path: Path) -> None:
    path = photo(tmp_path / "in" / os.fsdecode(b"a\xff.png"))
    code, out, err = deeplab("predict", tmp_path / "in", "-m", model_folder, "-o", tmp_path / "out")
    assert code == 0 and "1 photos labelled" in out, err
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert entry["photo"] == str(path) and (tmp_path / "out" / entry["labels"]).is_file()


def test_a_second_run_does_not_label_its_own_results(deeplab, model_folder: Path, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for _ in range(2):
        code, out, _ = deeplab(
            "predict", tmp_path, "-m", model_folder, "-o", tmp_path / "out", "--device", "cpu"
        )
        assert code == 0
        assert "1 photos labelled" in out


def test_several_scales_and_flip(deeplab, model_folder: Path, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    code, _, _ = deeplab(
        "predict",
        path,
        "-m",
        model_folder,
        "-o",
        tmp_path / "out",
        "--scales",
        "0.75",
        "1.25",
        "--flip",
        "--output-stride",
        "8",
    )
    assert code == 0
    expected = Segmenter(model_folder, scales=(0.75, 1.25), flip=True, output_stride=8)(path).labels
    with Image.open(tmp_path / "out" / "a_labels.png") as labels:
        np.testing.assert_array_equal(np.array(labels), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "no photos given"),
        (["predict", "nowhere.jpg"], "nowhere.jpg"),
        (["predict", "{photo}", "-m", "nonsense"], "no model 'nonsense'"),
        (["predict", "{photo}", "-m", "{model}", "--output-stride", "7"], "output stride 7"),
        (["predict", "{photo}", "-m", "{model}", "--device", "abacus"], "device 'abacus'"),
        (["predict", "{photo}", "-m", "{model}", "--scales", "0"], "positive"),
        (["predict", "{photo}", "-m", "{model}", "--scales", "nan"], "a scale is nan"),
        (["predict", "{photo}", "-o", "{model}/config.json"], "config.json is a file, not a folder"),
        (
            ["predict", "{photo}", "--overlap", "0.5"],
            "--overlap would change nothing; allowed: with --window",
        ),
        (["predict", "{photo}", "--seams", "shared"], "--seams would change nothing; allowed: with --window"),
        (["eval", "nowhere", "--seams", "exact"], "--seams would change nothing; allowed: with --window"),
        (
            ["predict", "{photo}", "--bands", "1", "--level", "2"],
            "--level would change nothing; allowed: with a slide",
        ),
        (
            ["predict", "{photo}", "--bands", "3", "2", "1"],
            "--bands would change nothing; allowed: with a TIFF",
        ),
        (
            ["predict", "{photo}", "--polygons", "gpkg"],
            "--polygons would change nothing; allowed: with a scene",
        ),
        (
            ["predict", "{photo}", "--every", "2", "--smooth", "0.5"],
            "--every and --smooth would change nothing",
        ),
        (["predict", "{photo}", "--cluster", "ray", "--seconds", "2"], "--seconds would change nothing"),
        (["predict", "{photo}", "--cluster", "ray", "--no-overlay"], "--no-overlay would change nothing"),
        (["predict", "{photo}", "--cluster", "ray", "--overlay"], "--overlay would change nothing"),
        (
            ["eval", "nowhere", "--worst", "3"],
            "--worst would change nothing; allowed: with --output; fix: leave it out",
        ),
        (
            ["panoptic", *"abcd", "--no-normalize"],
            "--no-normalize would change nothing; allowed: with --metric pc",
        ),
        (["models", "--format", "json"], "--format would change nothing; allowed: with a model's name"),
        (
            ["export", "{model}", "--to", "torch-export", "-o", "out", "--opset", "18"],
            "--opset would change nothing; allowed: with --to onnx",
        ),
        (
            [
                "export",
                "{model}",
                "--to",
                "torch-export",
                "-o",
                "out",
                "--split",
                "train",
                "--classes",
                "a",
                "b",
            ],
            "--split and --classes would change nothing; allowed: with --eval; fix: leave them out",
        ),
        (
            ["export", "{model}", "--to", "torch-export", "-o", "out", "--allow"],
            "--allow would change nothing; allowed: with --precision float16 or int8",
        ),
        (
            ["data", "check", ".", "--other", "background"],
            "--other would change nothing; allowed: with --keep",
        ),
        (
            ["data", "convert", "nowhere", "out", "--other", "ignore"],
            "--other would change nothing; allowed: with --keep",
        ),
        (["predict", "{photo}", "--workers", "2"], "--workers would change nothing; allowed: with --cluster"),
        (["predict", "{photo}", "--calibration", "{photo}"], "precision float32 takes no calibration photos"),
        (
            ["predict", "{photo}", "--precision", "int8", "--calibration", "{photo}", "--device", "cuda"],
            "precision int8 runs on processors, and the device is cuda; fix: device cpu, or another precision",
        ),
        (
            ["eval", ".", "--engine", "openvino", "--device", "cuda:1"],
            "engine openvino runs on processors, and the device is cuda:1; fix: device cpu, or engine torch",
        ),
        (
            ["predict", "{photo}", "--cluster", "ray", "--device", "abacus"],
            "device 'abacus' cannot be used here",
        ),
        (["train", "nowhere.yaml", "-o", "run"], "nowhere.yaml"),
        (["import", "nowhere.tflite", "-o", "out"], "nowhere.tflite"),
        (["eval", "nowhere", "-m", "{model}"], "nowhere"),
    ],
)
def test_mistakes_get_one_message_and_exit_code_2(
    deeplab, model_folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    picture = photo(tmp_path / "a.png")
    code, _, err = deeplab(*(word.format(photo=picture, model=model_folder) for word in arguments))
    assert code == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "x.mp4", "--every", "1.5"),
        ("predict", "x.png", "--window", 640, "640.5"),
        ("predict", "x.tif", "--bands", 3, "1.5"),
        ("predict", "x.png", "--cluster", "ray", "--workers", "0.6"),
        ("data", "check", "data", "--workers", "0.5"),
        ("data", "webdataset", "data", "out", "--samples", "2.5"),
        ("crf", "search", "data", "-o", "x.json", "--grid", "2.5"),
    ],
    ids=lambda words: words[-2],
)
def test_whole_numbers_are_not_rounded(deeplab, words: tuple) -> None:
    code, _, err = deeplab(*words)
    assert code and f'unable to convert "{words[-1]}" into int' in " ".join(err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predict", "x.png", "--window", 1, 1), "window 1 x 1"),
        (("predict", "x.png", "--scales", 100), "a scale is 100.0; allowed: 0.125 to 8"),
        (("predict", "x.png", "--scales", "nan"), "a scale is nan"),
        (("predict", "x.png", "--scales", *[1] * 40), "number of scales is 40"),
        (("eval", "data", "--bootstrap", 10**9), "--bootstrap is 1000000000"),
        (("eval", "data", "--boundaries", "--widths", 10**9), "--widths is 1000000000"),
        (("serve", "--queue", 0), "queue is 0"),
        (("serve", "--queue", 10**9), "queue is 1000000000"),
        (("serve", "--max-pixels", -1), "--max-pixels is -1"),
        (
            ("export", "animals", "--to", "executorch", "-o", "x", "--max-size", 10**6, 1),
            "--max-size is 1000000",
        ),
        (("predict", "x.png", "--cluster", "ray", "--workers", 10**5), "--workers is 100000"),
        (("serve", "--workers", 100_000), "workers is 100000; allowed: 1 to 256"),
        (("serve", "--port", 99_999), "port is 99999"),
        (("serve", "--deadline", "nan"), "deadline is nan"),
        (("data", "tfrecord", "data", "out", "--shards", 10**9), "--shards is 1000000000"),
        (("data", "webdataset", "data", "out", "--samples", 0), "--samples is 0"),
        (("data", "check", "data", "--workers", -4), "--workers is -4"),
        (("data", "check", "data", "--num-classes", 10**9), "--num-classes is 1000000000"),
        (("crf", "search", "data", "-o", "x.json", "--grid", 1000), "--grid is 1000"),
        (("export", "animals", "--to", "onnx", "-o", "out", "--size", -5, 5), "--size is -5"),
        (("train", "own-photos", "-o", "out", "data.root=.", "workers=100000"), "workers = 100000"),
        (
            ("train", "own-photos", "-o", "out", "data.root=.", "optimise.batch_size=1000000000"),
            "batch_size = 10",
        ),
        (("train", "own-photos", "-o", "out", "data.root=.", "seed=-1"), "seed = -1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_beyond_reason_are_refused_first(
    deeplab, words: tuple, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words[0] == "serve":
        pytest.importorskip("fastapi", reason="the extra serve is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.png").write_bytes(b"no picture: nothing is opened yet")
    code, _, err = deeplab(*words)
    assert code == 2 and said in err and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_unique_names() -> None:
    paths = [Path("a/cat.jpg"), Path("b/cat.jpg"), Path("b/dog.jpg"), Path("b/dog.png")]
    assert unique_names(paths) == ["a_cat_jpg", "b_cat_jpg", "dog_jpg", "dog_png"]


def test_names_that_are_no_utf8_and_lines_stand_in_the_index(
    deeplab, model_folder: Path, tmp_path: Path
) -> None:
    names = [os.fsdecode(b"bad\xff.png"), "two\nlines.png"]
    (tmp_path / "in").mkdir()
    try:
        photos = [photo(tmp_path / "in" / name) for name in names]
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    code, _, err = deeplab("predict", tmp_path / "in", "-m", model_folder, "-o", tmp_path / "out")
    assert code == 0, err
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["photo"] for entry in entries] == [str(each) for each in photos]
    assert all((tmp_path / "out" / entry["labels"]).exists() for entry in entries)


def test_a_photo_that_windows_do_not_fit_is_named(deeplab, model_folder: Path, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    words = ("-o", tmp_path / "out", "--window", 16, 16, "--seams", "exact")
    code, _, err = deeplab("predict", path, "-m", model_folder, *words)
    assert code == 1 and f"skipped: {path}: windows of 16 pixels are too small" in err


def test_help_needs_no_torch() -> None:
    code = (
        "import sys, deeplab.cli.app as cli; cli.app(['--help'], result_action='return_value'); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("predict", "train", "eval", "import"):
        assert command in done.stdout


def test_segmentation_from_python(model_folder: Path) -> None:
    segmenter = Segmenter(model_folder)
    pixels = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    result = segmenter(pixels, probabilities=True)
    assert result.labels.shape == (33, 47)
    assert result.classes == ("background", "cat", "dog")
    assert result.probabilities.shape == (3, 33, 47)
    np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(result.probabilities.argmax(0), result.labels)
    assert segmenter(pixels).probabilities is None
    assert result.overlay(legend=False).size == (47, 33)
