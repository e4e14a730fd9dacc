"""Photos, classes, settings and memory at their ends: labels that mean something, or one sentence."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deeplab import DeepLab, DeepLabConfig, LabelSpec, Segmenter
from deeplab.config import ASPPConfig, backbone_config
from deeplab.crf import V2_RESNET101
from deeplab.errors import UserError
from deeplab.model.network import Logits
from deeplab.prediction import predictor as predictor_module
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.prediction.sliding import Window, predict_in_windows

LONG = 20_000


def network(classes: int = 3) -> DeepLab:
    torch.manual_seed(3)
    config = DeepLabConfig(
        backbone=backbone_config("mobilenet_v2", width=0.25),
        context=ASPPConfig(channels=8),
        num_classes=classes,
    )
    return DeepLab(config, LabelSpec.named([f"c{number}" for number in range(classes)])).eval()


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, LONG), (LONG, 1), (3, 7)])
@pytest.mark.parametrize(
    "options", [{}, {"scales": (0.5, 1.5), "flip": True}, {"window": Window(4096, 4096)}]
)
def test_photos_of_every_form_are_labelled_at_their_size(size: tuple[int, int], options: dict) -> None:
    found = Segmenter(network(), device="cpu", **options)(picture(*size))
    assert found.labels.shape == size and found.labels.max() < 3
    assert sum(found.shares.values()) == pytest.approx(1)


def test_long_photos_are_drawn_too(tmp_path: Path) -> None:
    for size in ((1, 1), (1, LONG), (LONG, 1)):
        found = Segmenter(network(), device="cpu")(picture(*size))
        labels, overlay = found.save(tmp_path, name=f"{size[0]}-{size[1]}")
        with Image.open(labels) as stored:
            np.testing.assert_array_equal(np.array(stored), found.labels)
        with Image.open(overlay) as drawn:
            assert drawn.width >= size[1] or drawn.height >= size[0]


@pytest.mark.parametrize("classes", [1, 2, 255, 300])
def test_numbers_of_classes(classes: int, tmp_path: Path) -> None:
    network(classes).save_pretrained(tmp_path / "model")
    found = Segmenter(tmp_path / "model", device="cpu")(picture(33, 45), probabilities=True)
    assert found.probabilities is not None and found.probabilities.shape == (classes, 33, 45)
    chosen = np.take_along_axis(found.probabilities, found.labels[None].astype(int), 0)[0]
    # where two are equal up to rounding, logits decide
    np.testing.assert_allclose(chosen, found.probabilities.max(0), atol=1e-6)
    assert found.labels.dtype == (np.uint8 if classes <= 256 else np.uint16)
    labels, _ = found.save(tmp_path, name="a")
    with Image.open(labels) as stored:
        np.testing.assert_array_equal(np.array(stored), found.labels)


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
@pytest.mark.parametrize("how", [{}, {"scales": (0.75, 1.25), "flip": True}, {"window": Window(48, 48)}])
def test_the_same_photo_has_the_same_bits(engine: str, how: dict) -> None:
    """Whenever, of whichever predictor, and in whatever thread."""
    if engine != "torch":
        pytest.importorskip(engine)
    photo, found = picture(97, 129), []
    for _ in range(2):
        predictor = Predictor.of(network(), Labelling(engine=engine, device="cpu", **how))
        with ThreadPoolExecutor(2) as threads:
            found += [each.label(photo, confidence=True) for each in (predictor, predictor)]
            found += threads.map(lambda made: made.label(photo, confidence=True), (predictor, predictor))
    for other in found[1:]:
        assert torch.equal(other.labels, found[0].labels)
        assert other.confidence is not None and torch.equal(other.confidence, found[0].confidence)


def digests(engine: str, threads: int) -> list[str]:
    """Of logits, labels and confidence of a photo, with so many threads of torch and of the engine."""
    torch.set_num_threads(threads)
    predictor = Predictor.of(network(), Labelling(engine=engine, device="cpu"))
    photo = picture(97, 129)
    labelled = predictor.label(photo, confidence=True)
    assert labelled.confidence is not None
    with torch.inference_mode():
        values = (predictor.logits_of(photo), labelled.labels, labelled.confidence)
    return [sha256(value.contiguous().numpy().tobytes()).hexdigest() for value in values]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
def test_the_same_photo_has_the_same_bits_in_every_process(engine: str, threads: int) -> None:
    """With the same number of threads; `docs/robustness.md` says what another one changes."""
    if engine != "torch":
        pytest.importorskip(engine)
    program = f"from test_extremes import digests; print(*digests({engine!r}, {threads}))"
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    told = [
        subprocess.run(
            [sys.executable, "-c", program], env=surroundings, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert len(told[0]) == 3 and told[0] == told[1]


class Broken(torch.nn.Module):
    """A network that gives one number that is none."""

    def __init__(self, model: DeepLab, value: float) -> None:
        super().__init__()
        self.model, self.value, self.config, self.eight_bit = model, value, model.config, False

    def low_resolution_logits(self, images: torch.Tensor) -> Logits:
        found = self.model.low_resolution_logits(images)
        found["semantic"][..., -1, -1] = self.value
        return found

    def scaled_logits(self, images: torch.Tensor, scale: float) -> Logits:
        found = self.model.scaled_logits(images, scale)
        found["semantic"][..., -1, -1] = self.value
        return found

    def resize_logits(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return self.model.resize_logits(logits, size)


def predictor_of(net: object, **how: object) -> Predictor:
    labels = network().labels
    return Predictor(net, labels, device=torch.device("cpu"), how=Labelling(**how), output_stride=16)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "how", [{}, {"scales": (1.0, 1.5)}, {"flip": True}, {"window": Window(32, 32)}, {"crf": V2_RESNET101}]
)
def test_outputs_that_are_no_numbers_are_no_labels(value: float, how: dict) -> None:
    found = predictor_of(Broken(network(), value), **how)
    with torch.inference_mode():
        for ask in (found.labels_of, found.label):
            with pytest.raises(UserError, match=r"NaN or infinity .* labels would mean nothing"):
                ask(picture(40, 48))
    with torch.inference_mode(), pytest.raises(UserError, match="NaN or infinity"):
        found.logits_of(picture(40, 48))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory")]
)
def test_where_memory_runs_out_windows_go_on(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_module, "IN_NEED", Window(32, 32))
    model = network()
    real = model.low_resolution_logits

    def small_only(images: torch.Tensor) -> Logits:
        if images.shape[-1] > 32:
            raise error
        return real(images)

    monkeypatch.setattr(model, "low_resolution_logits", small_only)
    photo = picture(40, 48)
    images = torch.from_numpy(photo).permute(2, 0, 1)[None]
    expected = predict_in_windows(model, images, window=Window(32, 32))
    found = predictor_of(model)
    for ask in (lambda: found.labels_of(photo), lambda: found.label(photo).labels):
        with pytest.warns(UserWarning, match="40 x 48 as a whole; it is labelled in windows of 32 x 32"):
            labels = ask()
        assert torch.equal(labels.long(), expected.labels)
    # nothing that is small enough, and what a window of one's own or the CRF cannot do either
    for how, fix in (({"window": Window(40, 40)}, "--window"), ({"crf": V2_RESNET101}, "CRF away")):
        with pytest.raises(UserError, match=f"memory ran out for a photo of 40 x 48; fix: .*{fix}"):
            predictor_of(model, **how).label(photo)
    monkeypatch.setattr(model, "low_resolution_logits", lambda images: (_ for _ in ()).throw(error))
    with warnings.catch_warnings(), pytest.raises(UserError, match="memory ran out"):
        warnings.simplefilter("ignore")
        found.labels_of(photo)


def test_other_errors_pass() -> None:
    class Wrong(Broken):
        def low_resolution_logits(self, images: torch.Tensor) -> Logits:
            raise RuntimeError("another one")

    with pytest.raises(RuntimeError, match="another one"):
        predictor_of(Wrong(network(), 0)).labels_of(picture(40, 48))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scales": (100.0,)}, "a scale is 100.0; allowed: 0.125 to 8"),
        ({"scales": (1.0,) * 17}, "number of scales is 17"),
        ({"scales": (math.nan,)}, "scale"),
        ({"scales": (-1.0,)}, "positive"),
        ({"scales": ()}, "positive"),
    ],
)
def test_settings_beyond_reason(settings: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Labelling(**settings)
