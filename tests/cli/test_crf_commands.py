"""The CRF behind a network: predict --crf, eval --crf, and files of parameters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.crf_runs import CLASSES, ColourNetwork, blob

from deeplab import Segmenter
from deeplab.crf import CRF_PRESETS, V2_RESNET101, CRFConfig, crf_parameters, dense_crf
from deeplab.errors import UserError
from deeplab.evaluation.photo_by_photo import evaluate
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.prediction.sliding import Window

pytestmark = pytest.mark.usefixtures("crf_in_torch")


def evaluation(data: Path, model: Path) -> tuple[object, ...]:
    """The command's words for photos of squares."""
    return ("eval", data, "--split", "train", "-m", model, "--classes", *CLASSES)


def test_labels_and_probabilities_are_the_crf_s_own(squares_model: Path, squares: Path) -> None:
    photo = next(iter(sorted((squares / "JPEGImages").iterdir())))
    passes = {"scales": (1.0, 1.5), "flip": True, "device": "cpu"}
    plain = Segmenter(squares_model, **passes)(photo, probabilities=True)
    found = Segmenter(squares_model, **passes, crf=V2_RESNET101)(photo, probabilities=True)
    expected = dense_crf(plain.probabilities, plain.photo, parameters=V2_RESNET101).numpy()
    np.testing.assert_allclose(found.probabilities, expected, rtol=0, atol=1e-6)
    assert (found.labels == expected.argmax(0)).all()
    assert found.labels.dtype == np.uint8
    without = Segmenter(squares_model, **passes, crf=V2_RESNET101)(photo)
    assert without.probabilities is None
    assert (without.labels == found.labels).all()


def test_predict_writes_the_crf_s_labels(deeplab, squares_model: Path, squares: Path, tmp_path: Path) -> None:
    photo = next(iter(sorted((squares / "JPEGImages").iterdir())))
    strong = {"w1": 30, "sigma_alpha": 40, "sigma_beta": 20, "w2": 3, "sigma_gamma": 3}
    (tmp_path / "crf.json").write_text(json.dumps({"parameters": strong, "search": {"seed": 0}}))
    words = (
        "predict",
        photo,
        "-m",
        squares_model,
        "--device",
        "cpu",
        "--output-stride",
        8,
        "-o",
        tmp_path / "out",
    )
    code, _, err = deeplab(*words, "--crf", tmp_path / "crf.json")
    assert code == 0, err
    plain = Segmenter(squares_model, output_stride=8, device="cpu")(photo, probabilities=True)
    expected = dense_crf(plain.probabilities, plain.photo, parameters=CRFConfig(**strong)).argmax(0)
    with Image.open(tmp_path / "out" / f"{photo.stem}_labels.png") as written:
        assert (np.array(written) == expected.numpy()).all()


def test_a_crf_finds_the_edges_that_a_coarse_network_blurs() -> None:
    network, sample = ColourNetwork(), blob()
    without = evaluate(Predictor.as_it_is(network), [sample]).mean_iou()
    parameters = CRFConfig(w1=10, sigma_alpha=30, sigma_beta=10, w2=1, sigma_gamma=1)
    with_crf = evaluate(Predictor.as_it_is(network, Labelling(crf=parameters)), [sample])
    assert without < 0.97
    assert with_crf.mean_iou() == 1


def test_eval_names_the_parameters(deeplab, squares_model: Path, squares: Path, tmp_path: Path) -> None:
    words = (*evaluation(squares, squares_model), "--device", "cpu")
    code, out, err = deeplab(*words, "--crf", "v1", "-o", tmp_path)
    assert code == 0, err
    held = {"w1": 4.5, "sigma_alpha": 65.0, "sigma_beta": 4.5, "w2": 3.0, "sigma_gamma": 3.0}
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["CRF"] == held
    assert "CRF w1=4.5" in out.replace("\n", " ")
    assert "CRF w1=4.5" in (tmp_path / "report.html").read_text()
    counts = np.zeros((3, 3), int)
    segmenter = Segmenter(squares_model, device="cpu", crf=CRFConfig(**held))
    for name in (squares / "ImageSets" / "Segmentation" / "train.txt").read_text().split():
        with Image.open(squares / "SegmentationClass" / f"{name}.png") as mask:
            truth = np.array(mask)
        kept = truth < 3
        found = segmenter(squares / "JPEGImages" / f"{name}.png").labels
        np.add.at(counts, (truth[kept], found[kept]), 1)
    assert (counts.sum(0) > 0).sum() > 1, "the model says one class for all"
    assert report["confusion"] == counts.tolist()


def test_windows_and_a_crf_exclude_each_other(deeplab, squares_model: Path, squares: Path) -> None:
    words = (*evaluation(squares, squares_model), "--window", 16, 16)
    code, _, err = deeplab(*words, "--crf", "v1")
    assert code == 2
    assert "a CRF and windows exclude each other" in err
    with pytest.raises(UserError, match="fix: leave out the window, or the CRF"):
        Labelling(crf=V2_RESNET101, window=Window(16, 16))


def test_parameters_by_name_or_file(tmp_path: Path) -> None:
    assert crf_parameters("v2-resnet101") == CRFConfig(
        w1=4, sigma_alpha=67, sigma_beta=3, w2=3, sigma_gamma=1
    )
    assert CRF_PRESETS["v1"].sigma_gamma == 3
    path = tmp_path / "own.json"
    path.write_text('{"w1": 5, "sigma_beta": 4}')
    assert crf_parameters(str(path)) == CRFConfig(w1=5, sigma_beta=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            None,
            r"'.*own.json' is neither a known set of CRF parameters nor a file; allowed: v1, v2-resnet101",
        ),
        ("{", r"own.json: is not a readable JSON file \(JSONDecodeError: Expecting"),
        ("[1]", "own.json names no CRF parameters"),
        ("{}", "own.json names no CRF parameters"),
        ('{"w1": -1}', r"own.json: w1 = -1: .*greater than or equal to 0"),
        ('{"parameters": {"sigma_alfa": 30}}', r"sigma_alfa = 30: unknown key; did you mean 'sigma_alpha'"),
        ('{"sigma_beta": 0}', r"sigma_beta = 0: .*greater than 0"),
    ],
)
def test_mistakes_in_parameters_are_explained(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "own.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        crf_parameters(str(path))
