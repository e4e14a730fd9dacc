"""Labels and confidence in strips of rows: against the whole map at once, and within a bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deeplab.config import ASPPConfig, DeepLabConfig, ResizeRule, backbone_config
from deeplab.layers.resize import resize_bilinear
from deeplab.model.network import DeepLab
from deeplab.prediction import strips
from deeplab.prediction.strips import predict_whole

SIZE = (37, 53)
CLASSES = 5


class Ready(nn.Module):
    """A stand-in for a DeepLab whose logits are given."""

    eight_bit = False

    def __init__(self, rule: ResizeRule, size: tuple[int, int] = (5, 7)) -> None:
        super().__init__()
        self.config = SimpleNamespace(resize=rule)
        self.given = 4 * torch.randn(1, CLASSES, *size, generator=torch.manual_seed(1))

    def low_resolution_logits(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"semantic": self.given}

    def scaled_logits(self, images: torch.Tensor, scale: float) -> dict[str, torch.Tensor]:
        """The mean of the mirrored photo's half, so that a photo and its mirror image differ."""
        size = tuple(int(side * scale) for side in self.given.shape[-2:])
        half = images[..., : images.shape[-1] // 2].float().mean() / 50
        return {"semantic": resize_bilinear(self.given * half, size, self.config.resize)}


@pytest.fixture(params=["align_corners", "half_pixel", "legacy"])
def rule(request: pytest.FixtureRequest) -> ResizeRule:
    return request.param


@pytest.fixture(params=[1, 5, 1000], ids=["rows", "strips", "whole"])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(strips, "STRIP_BYTES", 4 * CLASSES * SIZE[1] * request.param)
    return request.param


def photo() -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, *SIZE), generator=torch.manual_seed(2), dtype=torch.uint8)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 7), SIZE])
def test_one_pass_is_softmax_of_the_resized_logits(rule: str, rows: int, size: tuple[int, int]) -> None:
    model = Ready(rule, size)
    found = predict_whole(model, photo())
    whole = resize_bilinear(model.given.double(), SIZE, rule)[0]
    expected = whole.softmax(0).max(0)
    assert found.labels.dtype == torch.int64 and found.confidence.dtype == torch.float32
    torch.testing.assert_close(found.confidence.double(), expected.values, rtol=0, atol=1e-5)
    best = whole.topk(2, dim=0).values
    decided = best[0] - best[1] > 1e-4
    assert decided.float().mean() > 0.99
    assert torch.equal(found.labels[decided], expected.indices[decided])
    assert torch.equal(found.labels, predict_whole(model, photo(), confidence=False).labels)


def test_several_passes_average_probabilities(rule: str, rows: int) -> None:
    model, image = Ready(rule), photo()
    found = predict_whole(model, image, scales=(1.0, 1.6), flip=True)
    total = torch.zeros(CLASSES, *SIZE, dtype=torch.float64)
    for scale in (1.0, 1.6):
        for mirrored in (image, image.flip(-1)):
            logits = model.scaled_logits(mirrored, scale)["semantic"]
            logits = logits if mirrored is image else logits.flip(-1)
            total += F.softmax(resize_bilinear(logits.double(), SIZE, rule), dim=1)[0] / 4
    torch.testing.assert_close(found.confidence.double(), total.amax(0), rtol=0, atol=1e-5)
    best = total.topk(2, dim=0).values
    decided = best[0] - best[1] > 1e-4
    assert torch.equal(found.labels[decided], total.argmax(0)[decided])


def test_confidence_may_be_left_out(rule: str) -> None:
    assert predict_whole(Ready(rule), photo(), confidence=False).cpu().confidence is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is counted as Linux counts it")
def test_memory_is_bounded() -> None:
    """All measures at 900 x 800 with 150 classes, whose logits take 432 MB: one copy of them would show."""

    def peak(*options: str) -> dict[str, Any]:
        script = Path(__file__).parents[2] / "benchmarks" / "evaluation_memory.py"
        command = [sys.executable, str(script), "900x800x150", *options]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, check=True, capture_output=True, text=True, env=alone)
        return json.loads(run.stdout)

    for options in ((), ("--plain", "--flip")):
        found = peak(*options)
        assert found["logits at full size"] == 432_000_000
        assert 0 < found["bytes"] < 300e6


@pytest.mark.parametrize("classes", [1, 2, 255, 1000])
@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_any_number_of_classes_in_photos_of_any_shape(classes: int, size: tuple[int, int]) -> None:
    backbone = backbone_config("mobilenet_v2", width=0.25)
    model = DeepLab(
        DeepLabConfig(backbone=backbone, context=ASPPConfig(channels=8), num_classes=classes)
    ).eval()
    photo = torch.randint(0, 256, (1, 3, *size), generator=torch.manual_seed(3), dtype=torch.uint8)
    found = predict_whole(model, photo)
    with torch.inference_mode():
        logits = model(photo)[0]
    assert found.labels.shape == size and 0 <= int(found.labels.min()) <= int(found.labels.max()) < classes
    chosen = logits.gather(0, found.labels[None])[0]
    assert (logits.amax(0) - chosen <= 1e-5).all() and torch.isfinite(found.confidence).all()
