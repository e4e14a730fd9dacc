"""The reach by arithmetic is the one that gradients find: of ones where there is a way from a pixel to a logit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from deeplab import DeepLab, DeepLabConfig
from deeplab.config import ASPPConfig, DecoderConfig, backbone_config
from deeplab.errors import UserError
from deeplab.layers.view import Side, View, seeing
from deeplab.model.reach import reach_of
from deeplab.presets import preset

LIGHT = ASPPConfig(channels=8)
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a light head": ("mobilenet_v2", {"width": 0.25}, {"context": ASPPConfig(channels=8, rates=())}),
    "atrous branches": ("mobilenet_v2", {"width": 0.25}, {"context": LIGHT, "output_stride": 8}),
    "a decoder": ("mobilenet_v2", {"width": 0.25}, {"context": LIGHT, "decoder": DecoderConfig(channels=8)}),
    "half pixels": (
        "mobilenet_v2",
        {"width": 0.25},
        {"context": LIGHT, "decoder": DecoderConfig(channels=8), "resize": "half_pixel"},
    ),
    "gates": ("mobilenet_v3_small_seg", {}, {"context": ASPPConfig(channels=8, rates=())}),
    "poolings": ("resnet18", {}, {"context": ASPPConfig(channels=8, rates=(2,)), "output_stride": 16}),
}


def config_of(name: str) -> DeepLabConfig:
    backbone, options, rest = NETWORKS[name]
    return DeepLabConfig(backbone=backbone_config(backbone, **options), num_classes=2, **rest)


class Cut(View):
    """Means that no gradient goes through."""

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach().mean((2, 3), keepdim=True)


def measured(config: DeepLabConfig, *, side: int) -> int:
    """Pixels above or below a logit in the middle of a strip that it depends on."""
    model = DeepLab(config).eval().double()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1e-2)
    image = torch.full((1, 3, side, 33), 1.0, dtype=torch.float64, requires_grad=True)
    # nothing of it saturates
    model.pixel_mean.zero_()
    model.pixel_std.fill_(1.0)
    with seeing(Cut(Side(side, 0, side, (0, side)), Side(33, 0, 33, (0, 33)))):
        logits = model.low_resolution_logits(image)["semantic"]
    farthest = 0
    # a decoder's positions read differently far
    for row in range(logits.shape[2] // 2, logits.shape[2] // 2 + 4):
        (gradient,) = torch.autograd.grad(logits[0, 0, row].sum(), image, retain_graph=True)
        rows = gradient[0].abs().sum((0, 2)).nonzero().flatten()
        pixel = row * model.logits_stride
        farthest = max(farthest, pixel - int(rows[0]), int(rows[-1]) - pixel)
        assert rows[0] > 0 and rows[-1] < side - 1, "the strip is too short to see where it ends"
    return farthest


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_as_far_as_arithmetic_says(name: str) -> None:
    config = config_of(name)
    found = reach_of(config, config.output_stride)
    side = 2 * found.pixels // 32 * 32 + 192 + (config.resize == "align_corners")
    seen = measured(config, side=side)
    # a maximum has one way through it, a pixel of half-pixel grids lies between two positions
    slack = 8 if name == "poolings" else config.output_stride if name == "half pixels" else 0
    assert seen <= found.pixels <= seen + slack
    assert found.grid == config.output_stride


def test_means_are_counted() -> None:
    assert reach_of(config_of("a light head"), 16).means == 1
    gates = DeepLab(config_of("gates"))
    squeezes = sum("SqueezeExcite" in type(module).__name__ for module in gates.modules())
    assert squeezes > 3 and reach_of(gates.config, 16).means == squeezes + 1
    assert reach_of(preset("v2_resnet101"), 8).means == 0


def test_every_published_network_has_a_reach_or_a_reason() -> None:
    config = preset("xception65_cityscapes_trainfine")
    denser = reach_of(config, 8)
    assert denser.grid == 8 and reach_of(config, 16).pixels >= denser.pixels > 1000


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("v1_largefov", "do not lie on the image's grid"),
        ("v2_resnet101_msc", "at other sizes"),
        ("mobilenetv3_large_cityscapes_trainfine", "pools over windows"),
    ],
)
def test_networks_without_one_are_refused(name: str, why: str) -> None:
    config = preset(name)
    with pytest.raises(UserError, match=f"{why}.*--seams blend"):
        reach_of(config, config.output_stride)
