"""Sliding window: a model that is a known function of the pixels, and the whole-image run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeplab import DeepLab, DeepLabConfig, LabelSpec
from deeplab.config import ASPPConfig, backbone_config
from deeplab.errors import UserError
from deeplab.prediction.blended import window_starts
from deeplab.prediction.inference import predict
from deeplab.prediction.sliding import predict_in_windows
from deeplab.prediction.strips import predict_whole
from deeplab.prediction.windows import Window


@pytest.fixture(scope="module")
def model() -> DeepLab:
    torch.manual_seed(2)
    config = DeepLabConfig(
        backbone=backbone_config("mobilenet_v2", width=0.25),
        context=ASPPConfig(channels=8),
        num_classes=3,
    )
    return DeepLab(config, LabelSpec.named(["background", "cat", "dog"])).eval()


def picture(height: int, width: int) -> torch.Tensor:
    random = np.random.default_rng(height * width)
    return torch.from_numpy(random.integers(0, 256, (1, 3, height, width), dtype=np.uint8))


def test_starts_by_hand() -> None:
    assert window_starts(10, 10, overlap=0.5) == window_starts(7, 10, overlap=0.5) == [0]
    assert window_starts(11, 10, overlap=0.5) == [0, 1]
    # steps of at most 5: room for 20 pixels takes 4
    assert window_starts(30, 10, overlap=0.5) == [0, 5, 10, 15, 20]
    assert window_starts(20, 10, overlap=0.0) == [0, 10]
    assert window_starts(25, 10, overlap=0.0) == [0, 7, 15]


@pytest.mark.parametrize("overlap", [0.0, 0.33, 0.5, 0.99])
def test_windows_cover_everything_and_overlap_enough(overlap: float) -> None:
    for side in range(1, 60, 3):
        for window in range(1, side + 1, 4):
            starts = window_starts(side, window, overlap=overlap)
            assert starts[0] == 0 and starts[-1] + window == side
            steps = np.diff(starts)
            assert (steps >= 1).all() and (steps <= max(1, window * (1 - overlap))).all()


@pytest.mark.parametrize("options", [{}, {"flip": True, "scales": (0.75, 1.0)}])
def test_one_window_is_the_whole_image(model: DeepLab, options: dict) -> None:
    image = picture(33, 47)
    for window in (Window(33, 47), Window(100, 500, overlap=0.9)):
        found = predict_in_windows(model, image, window=window, **options)
        expected = predict(model, image, **options)["semantic"]
        assert torch.equal(found.labels, expected.labels[0])
        assert torch.equal(found.confidence, predict_whole(model, image, **options).confidence)
        torch.testing.assert_close(found.confidence, expected.probabilities[0].amax(0), rtol=0, atol=1e-6)


def blended(
    model: DeepLab, image: torch.Tensor, side: tuple[int, int], starts: list[tuple[int, int]]
) -> np.ndarray:
    """Float64 [C, H, W], pixel by pixel: probabilities weighted by (distance to the rim) down times across."""
    height, width = image.shape[-2:]
    total, weights = np.zeros((3, height, width)), np.zeros((height, width))
    for top, left in starts:
        part = image[..., top : top + side[0], left : left + side[1]]
        found = predict(model, part)["semantic"].probabilities[0].double().numpy()
        for y in range(side[0]):
            for x in range(side[1]):
                weight = min(y + 1, side[0] - y) * min(x + 1, side[1] - x)
                total[:, top + y, left + x] += weight * found[:, y, x]
                weights[top + y, left + x] += weight
    return total / weights


def test_blending_is_a_weighted_mean(model: DeepLab) -> None:
    image = picture(40, 52)
    found = predict_in_windows(model, image, window=Window(24, 32, overlap=0.5))
    # 16 rows of room in steps of up to 12; 20 columns in steps of up to 16
    starts = [(top, left) for top in (0, 8, 16) for left in (0, 10, 20)]
    expected = blended(model, image, (24, 32), starts)
    np.testing.assert_allclose(found.confidence.numpy(), expected.max(0), atol=2e-6)
    clear = np.diff(np.sort(expected, axis=0)[-2:], axis=0)[0] > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found.labels.numpy()[clear], expected.argmax(0)[clear])


def test_windows_that_do_not_overlap_are_the_crops_themselves(model: DeepLab) -> None:
    image = picture(20, 48)
    found = predict_in_windows(model, image, window=Window(20, 24, overlap=0.0))
    crops = [predict_whole(model, image[..., left : left + 24]).labels for left in (0, 24)]
    assert torch.equal(found.labels, torch.cat(crops, dim=1))


@pytest.mark.parametrize("window", [(0, 50), (1, 1), (50, 1 << 20), (50, 50, 1.0), (50, 50, -0.1)])
def test_windows_that_make_no_sense(window: tuple) -> None:
    with pytest.raises(UserError, match=r"allowed: sides from 16 to 65536, an overlap from 0 to 0.9"):
        Window(*window)
