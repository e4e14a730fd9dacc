"""One exported program at many sizes: nothing of the example's size may be frozen into it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deeplab import DeepLab, DeepLabConfig
from deeplab.config import ASPPConfig
from deeplab.heads.aspp import ASPP
from deeplab.layers.norm import norm_layer
from deeplab.layers.resize import resize_bilinear, scale_sides

torch.set_num_threads(1)

DYNAMIC = torch.export.Dim.DYNAMIC
CROP = (97, 129)  # a window of 7 x 9 at output stride 16


def exported(module: nn.Module, *example: torch.Tensor) -> nn.Module:
    shapes = tuple({2: DYNAMIC, 3: DYNAMIC} for _ in example)
    return torch.export.export(module, example, dynamic_shapes=shapes).module()


class Head(nn.Module):
    """ASPP on features at output stride 16."""

    def __init__(self, **context: object) -> None:
        super().__init__()
        config = ASPPConfig(channels=4, rates=(2,), separable=False, image_pooling_crop=CROP, **context)
        self.context = ASPP(
            3,
            config=config,
            native_stride=16,
            norm=norm_layer(eps=1e-5, momentum=0.1),
            resize="align_corners",
            activation="relu",
            depthwise_norm=True,
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        height, width = features.shape[-2:]
        return self.context(features, (16 * height - 15, 16 * width - 15))


@pytest.mark.parametrize(
    "context",
    [{}, {"image_pooling_stride": (2, 3), "gate": "qsigmoid"}],
    ids=["concatenated", "a gate from strided windows"],
)
@pytest.mark.parametrize("example", [(6, 7), (13, 9)], ids=["below", "above"])
def test_pooling_windows_follow_the_photo(context: dict, example: tuple[int, int]) -> None:
    """Below the crop the window is the whole map, above it 7 x 9, whichever the example was."""
    torch.manual_seed(0)
    head = Head(**context).eval()
    program = exported(head, torch.rand(1, 3, *example))
    for size in ((5, 5), (7, 9), (9, 6), (4, 12), (14, 17), example):
        features = torch.rand(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(program(features), head(features), rtol=1e-4, atol=1e-5)


def test_a_whole_model_with_a_crop_runs_at_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """v3's head on a narrow VGG: exported at one odd size, run at two others and an even one."""
    torch.manual_seed(0)
    monkeypatch.setattr("deeplab.backbones.vgg.STAGES", ((2, 1), (2, 1), (3, 1), (4, 1), (4, 1)))
    config = DeepLabConfig.model_validate(
        {
            "backbone": {"name": "vgg16"},
            "context": {"channels": 8, "rates": [2], "separable": False, "image_pooling_crop": CROP},
            "num_classes": 3,
        }
    )
    model = DeepLab(config).eval()
    nn.init.normal_(model.classifiers["semantic"].convs[0].weight)
    program = exported(model, torch.rand(1, 3, 65, 81) * 255)
    for size in ((113, 161), (49, 145), (64, 90)):
        images = torch.rand(1, 3, *size) * 255
        with torch.no_grad():
            expected = model(images)
            assert (program(images) - expected).abs().max() <= 1e-4 * expected.std()


@pytest.mark.parametrize("rule", ["align_corners", "half_pixel"])
@pytest.mark.parametrize("scales", [(0.5, 0.75, 1.0), (0.5, 1.75), (1.25,)], ids=str)
def test_the_scales_of_a_pyramid_follow_the_photo(
    monkeypatch: pytest.MonkeyPatch, rule: str, scales: tuple[float, ...]
) -> None:
    """v2's several scales inside the network: each photo's own sizes, not the example's."""
    torch.manual_seed(0)
    monkeypatch.setattr("deeplab.backbones.vgg.STAGES", ((2, 1), (2, 1), (3, 1), (4, 1), (4, 1)))
    config = DeepLabConfig.model_validate(
        {
            "backbone": {"name": "vgg16"},
            "context": {"channels": 8, "rates": [2], "separable": False},
            "num_classes": 3,
            "image_pyramid": scales,
            "resize": rule,
        }
    )
    model = DeepLab(config).eval()
    nn.init.normal_(model.classifiers["semantic"].convs[0].weight)
    program = exported(model, torch.rand(1, 3, 97, 129) * 255)
    # a torch program refuses maps of one position, the half of 64; other runtimes do not
    for size in ((130, 257), (96, 150), (80, 200)):
        images = torch.rand(1, 3, *size) * 255
        with torch.no_grad():
            expected = model(images)
            assert (program(images) - expected).abs().max() <= 1e-4 * expected.std()


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.25, 1.75, 1 / 8, 1 / 16, 1 / 32])
@pytest.mark.parametrize("rule", ["align_corners", "half_pixel"])
def test_sizes_without_a_value_scale_as_numbers_do(rule: str, scale: float) -> None:
    class Sizes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_ones(scale_sides(x.shape[-2:], scale, rule))

    program = exported(Sizes(), torch.zeros(1, 1, 97, 130))
    for sides in ((64, 65), (66, 127), (513, 1025), (200, 321)):
        assert tuple(program(torch.zeros(1, 1, *sides)).shape) == scale_sides(sides, scale, rule)


def test_a_resize_that_changes_nothing_in_the_example_is_no_promise() -> None:
    """Sizes that happen to be equal in the example must not be demanded of every photo."""

    class Fit(nn.Module):
        def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return resize_bilinear(x, tuple(other.shape[-2:]), "align_corners")

    example = (torch.rand(1, 1, 5, 7), torch.rand(1, 1, 5, 7))
    program = exported(Fit(), *example)
    torch.testing.assert_close(program(*example), example[0])
    x = torch.tensor([[0.0, 2.0], [4.0, 6.0]]).view(1, 1, 2, 2)
    expected = torch.tensor([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [4.0, 5.0, 6.0]])
    torch.testing.assert_close(program(x, torch.zeros(1, 1, 3, 3))[0, 0], expected)
