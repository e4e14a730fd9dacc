"""Every way of labelling works in every command that labels, and what does not go together is refused in one place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.crf_runs import CLASSES

from deeplab import Segmenter
from deeplab.errors import UserError
from deeplab.model.checkpoint import load
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.prediction.windows import Window

WAYS = {
    "stride": (["--output-stride", 8], {"output_stride": 8}),
    "scales": (["--scales", 1, 2, "--flip"], {"scales": (1.0, 2.0), "flip": True}),
    "window": (["--window", 24, 28, "--overlap", 0.25], {"window": Window(24, 28, overlap=0.25)}),
    "windows at scales": (
        ["--window", 20, 16, "--scales", 1, 1.5],
        {"window": Window(20, 16), "scales": (1.0, 1.5)},
    ),
    "windows that share": (
        ["--window", 24, 24, "--seams", "shared", "--output-stride", 8],
        {"window": Window(24, 24), "seams": "shared", "output_stride": 8},
    ),
    "bfloat16": (["--precision", "bfloat16"], {"precision": "bfloat16"}),
    "onnxruntime": (["--engine", "onnxruntime"], {"engine": "onnxruntime"}),
    "openvino": (["--engine", "openvino"], {"engine": "openvino"}),
    "strided engine": (
        ["--engine", "openvino", "--output-stride", 8],
        {"engine": "openvino", "output_stride": 8},
    ),
}
needs_engine = {"onnxruntime": "onnxruntime", "openvino": "openvino", "strided engine": "openvino"}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[list[object], dict[str, object]]:
    """The command's words and the fields of `Labelling` that they mean."""
    if request.param in needs_engine:
        pytest.importorskip(needs_engine[request.param])
    return WAYS[request.param]


def test_auto_is_the_processor_for_what_runs_there_alone() -> None:
    """Also on a machine with a GPU, which would be taken otherwise."""
    for asked in (
        {"engine": "openvino"},
        {"precision": "int8", "calibration": [np.zeros((9, 9, 3), np.uint8)]},
    ):
        assert Labelling(**asked).device == "cpu"
        with pytest.raises(
            UserError, match=r"runs on processors, and the device is cuda:1; fix: device cpu, or "
        ):
            Labelling(**asked, device="cuda:1")
    assert Labelling(engine="auto").device == Labelling().device == "auto"


def photos_of(squares: Path) -> list[Path]:
    names = (squares / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    return [squares / "JPEGImages" / f"{name}.png" for name in names]


def masks_of(squares: Path) -> list[np.ndarray]:
    masks = []
    for photo in photos_of(squares):
        with Image.open(squares / "SegmentationClass" / f"{photo.stem}.png") as mask:
            masks.append(np.array(mask))
    return masks


def expected(model: Path, squares: Path, fields: dict[str, object]) -> list[np.ndarray]:
    predictor = Predictor.of(load(model), Labelling(device="cpu", **fields))
    return [predictor.label(np.array(Image.open(photo))).labels.numpy() for photo in photos_of(squares)]


def test_predict_writes_what_the_predictor_says(deeplab, way, squares_model, squares, tmp_path) -> None:
    words, fields = way
    code, _, err = deeplab("predict", *photos_of(squares), "-m", squares_model, "-o", tmp_path, *words)
    assert code == 0, err
    truths = expected(squares_model, squares, fields)
    assert len(np.unique(np.stack(truths))) > 1, "the model says one class for all"
    for photo, truth in zip(photos_of(squares), truths, strict=True):
        with Image.open(tmp_path / f"{photo.stem}_labels.png") as written:
            assert (np.array(written) == truth).all()


def test_eval_counts_what_the_predictor_says(deeplab, way, squares_model, squares, tmp_path) -> None:
    words, fields = way
    data = ("eval", squares, "--split", "train", "-m", squares_model, "--classes", *CLASSES)
    code, _, err = deeplab(*data, "-o", tmp_path, *words)
    assert code == 0, err
    counts = np.zeros((3, 3), int)
    for mask, labels in zip(masks_of(squares), expected(squares_model, squares, fields), strict=True):
        kept = mask < 3
        np.add.at(counts, (mask[kept], labels[kept]), 1)
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["confusion"] == counts.tolist()
    assert report["engine"] == fields.get("engine", "torch")
    assert report["precision"] == fields.get("precision", "float32")


def test_the_search_of_a_crf_runs_in_the_engine_asked_for(
    deeplab, squares_model, squares, tmp_path, crf_in_torch
) -> None:
    pytest.importorskip("onnxruntime")
    data = ("crf", "search", squares, "--split", "train", "-m", squares_model, "--classes", *CLASSES)
    found = []
    for engine in ("torch", "onnxruntime"):
        path = tmp_path / f"{engine}.json"
        words = ("--engine", engine, "--output-stride", 8, "--grid", 2, "--rounds", 1, "--device", "cpu")
        code, _, err = deeplab(*data, "-o", path, *words)
        assert code == 0, err
        record = json.loads(path.read_text())
        assert record["search"]["output stride"] == 8
        found.append(record["parameters"])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"scales": ()}, "give positive factors"),
        ({"scales": (1.0, -0.5)}, "give positive factors"),
        ({"precision": "int8"}, "takes the ranges of values from photos"),
        ({"precision": "float16"}, "allowed are float32, bfloat16, int8"),
        ({"engine": "tensorflow"}, "no engine 'tensorflow'; allowed: auto, torch, openvino, onnxruntime"),
        ({"device": "abacus"}, "allowed: auto, cpu, cuda, cuda:1, mps"),
        ({"output_stride": 12}, "output stride"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    fields: dict[str, object], sentence: str, squares_model
) -> None:
    with pytest.raises(UserError, match=sentence):
        Segmenter(squares_model, **fields)


def test_probabilities_of_windows_are_refused(squares_model: Path, squares: Path) -> None:
    segmenter = Segmenter(squares_model, window=Window(16, 16), device="cpu")
    with pytest.raises(UserError, match="windows keep no probabilities of the whole photo"):
        segmenter(photos_of(squares)[0], probabilities=True)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_int8_is_measured_by_eval(deeplab, squares_model, squares, tmp_path, engine: str) -> None:
    for package in ("openvino", "nncf") if engine == "openvino" else ():
        pytest.importorskip(package)
    data = ("eval", squares, "--split", "train", "-m", squares_model, "--classes", *CLASSES)
    words = ("--engine", engine, "--precision", "int8", "--calibration", squares / "JPEGImages")
    code, _, err = deeplab(*data, "-o", tmp_path, *words)
    assert code == 0, err
    report = json.loads((tmp_path / "results.json").read_text())
    assert (report["engine"], report["precision"]) == (engine, "int8")
    assert 0 < report["mean IoU"] <= 1
