"""Peers' models with made-up weights, and the comparison with what this package makes of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from deeplab.importers import import_weights
from deeplab.importers.report import Imported
from deeplab.model.network import DeepLab

# odd, even, and so tall that rates up to 36 reach from one end of the features to the other
SIZES = ((65, 65), (97, 65), (64, 96), (297, 33))
TOLERANCE = 1e-4
PINS = "install it as constraints-peers.txt says"


def peer(name: str):
    """A peer's module, or skip: they are no dependency of this package."""
    _define_torchvision_operators()
    try:
        return importlib.import_module(name)
    except Exception as error:  # broken wheels raise more than ImportError
        pytest.skip(f"{name} is not usable here ({type(error).__name__}: {str(error)[:80]}); fix: {PINS}")


def _define_torchvision_operators() -> None:
    """torchvision's compiled half may not load beside a CPU build of torch; models only need the names."""
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)


_libraries: list[torch.library.Library] = []


def randomise(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Weights that keep signals near 1, and norms far from the identity; the model goes to eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def uniform(shape: torch.Size) -> torch.Tensor:
        return 0.8 + 0.4 * torch.rand(shape, generator=generator)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.data = normal(module.weight.shape) * (2.0 / fan_in) ** 0.5
            if module.bias is not None:
                module.bias.data = 0.1 * normal(module.bias.shape)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data, module.bias.data = (
                uniform(module.weight.shape),
                0.1 * normal(module.bias.shape),
            )
            module.running_mean.data = 0.1 * normal(module.running_mean.shape)
            module.running_var.data = uniform(module.running_var.shape)
    return model.eval()


def imported(model: nn.Module, folder: Path) -> Imported:
    """What this package makes of the model's saved weights."""
    path = folder / "peer.pth"
    torch.save(model.state_dict(), path)
    return import_weights(path)


def photo(size: tuple[int, int], channels: int = 3) -> torch.Tensor:
    """Pixels 0..255, [1, channels, *size]."""
    return torch.rand((1, channels, *size), generator=torch.Generator().manual_seed(1)) * 255


def normalised(model: DeepLab, pixels: torch.Tensor) -> torch.Tensor:
    """What a peer is fed, in its own order of channels: its preprocessing is inside our model."""
    if model.config.pixels.channels == "bgr":
        pixels = pixels.flip(1)
    return (pixels - model.pixel_mean) / model.pixel_std


def assert_same(
    theirs: nn.Module,
    ours: DeepLab,
    *,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    dtype: torch.dtype = torch.float32,
    their_output: Callable[[torch.Tensor], torch.Tensor] | None = None,
    our_output: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """Outputs agree within TOLERANCE of the peer's standard deviation at every size; prints differences.

    With float64 for networks whose made-up weights amplify rounding.
    """
    theirs.to(dtype)
    ours.to(dtype)
    for size in sizes:
        pixels = photo(size, ours.config.backbone.in_channels).to(dtype)
        with torch.inference_mode():
            expected = (their_output or theirs)(normalised(ours, pixels))
            found = (our_output or ours)(pixels)
        assert found.shape == expected.shape
        difference = ((found - expected).abs().max() / expected.std()).item()
        print(f"{size}: largest difference {difference:.1e} of the standard deviation {expected.std():.3g}")
        assert difference <= TOLERANCE, f"{difference} at {size}"
