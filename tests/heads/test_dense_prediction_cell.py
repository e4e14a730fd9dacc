"""The dense prediction cell: its JSON, rates, windows, any size, gradients, export."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from deeplab.config import (
    ConvBranch,
    DeepLabConfig,
    DensePredictionCellConfig,
    PyramidBranch,
    backbone_config,
    parse_config,
)
from deeplab.errors import UserError
from deeplab.heads.dense_prediction_cell import CITYSCAPES_CELL, DensePredictionCell, PyramidPooling
from deeplab.layers.norm import norm_layer
from deeplab.model.network import DeepLab
from deeplab.presets.reference import config_from_options
from deeplab.train.loop import batch_loss

# the reference's dense_prediction_cell_branch5_top1_cityscapes.json, as fact 3.3 lists it
PUBLISHED = """[
  {"kernel": 3, "rate": [1, 6], "op": "conv", "input": -1},
  {"kernel": 3, "rate": [18, 15], "op": "conv", "input": 0},
  {"kernel": 3, "rate": [6, 3], "op": "conv", "input": 1},
  {"kernel": 3, "rate": [1, 1], "op": "conv", "input": 0},
  {"kernel": 3, "rate": [6, 21], "op": "conv", "input": 0}
]"""
MIXED = (
    ConvBranch(kernel=1),
    PyramidBranch(grid_size=(4, 2)),
    ConvBranch(input=0, rate=(1, 6)),
    PyramidBranch(grid_size=(1, 1), input=2),
    ConvBranch(input=1, rate=(18, 15)),
)


def cell(branches: tuple = MIXED, **options: object) -> DensePredictionCell:
    torch.manual_seed(0)
    config = DensePredictionCellConfig(channels=8, branches=branches, **options)
    norm = norm_layer(eps=1e-5, momentum=0.0003)
    return DensePredictionCell(6, config=config, norm=norm, resize="align_corners").eval()


def build(branches: tuple = MIXED, **options: object) -> DeepLab:
    torch.manual_seed(0)
    return DeepLab(
        DeepLabConfig(
            backbone=backbone_config("mobilenet_v2", width=0.25),
            context=DensePredictionCellConfig(channels=16, branches=branches),
            num_classes=5,
            **options,
        )
    )


def test_the_published_json_is_the_named_cell() -> None:
    config = parse_config(
        DensePredictionCellConfig, {"kind": "dpc", "branches": json.loads(PUBLISHED)}, "cell.json"
    )
    assert config.branches == CITYSCAPES_CELL
    assert parse_config(DensePredictionCellConfig, config.model_dump(mode="json"), "again") == config


def test_channels_are_the_published_checkpoints() -> None:
    """Xception's 2048 channels into branch 0, 256 into the others, 1280 into the projection (fact 4.5)."""
    config = DensePredictionCellConfig(branches=CITYSCAPES_CELL)
    built = DensePredictionCell(2048, config=config, norm=None, resize="align_corners")
    assert [branch.depthwise.conv.in_channels for branch in built.branches] == [2048, 256, 256, 256, 256]
    assert tuple(built.projection.conv.weight.shape) == (256, 1280, 1, 1)
    assert built.out_channels == 256


@pytest.mark.parametrize(("stride", "factor"), [(16, 1), (8, 2), (4, 4)])
def test_rates_are_stated_at_output_stride_16(stride: int, factor: int) -> None:
    built = cell(CITYSCAPES_CELL)
    built.set_output_stride(stride)
    rates = [branch.depthwise.conv.dilation for branch in built.branches]
    expected = [(1, 6), (18, 15), (6, 3), (1, 1), (6, 21)]
    assert rates == [(factor * vertical, factor * horizontal) for vertical, horizontal in expected]


def test_rates_do_not_depend_on_the_models_native_stride() -> None:
    model = build(CITYSCAPES_CELL, output_stride=8)
    assert model.context.branches[1].depthwise.conv.dilation == (36, 30)


@pytest.mark.parametrize(
    ("image", "grid", "window"),
    [
        # the reference's own unit tests (fact 3.3): 513 at output stride 16
        ((513, 513), (4, 4), (9, 9)),
        ((513, 513), (2, 2), (17, 17)),
        ((513, 513), (1, 1), (33, 33)),
        # int(128 / 64 + 1) and int(128 / 32 + 1)
        ((129, 129), (4, 2), (3, 5)),
    ],
)
def test_pooling_windows(image: tuple[int, int], grid: tuple[int, int], window: tuple[int, int]) -> None:
    pooling = PyramidPooling(2, 2, grid=grid, norm=None, resize="align_corners")
    pooled = []
    pooling.project.register_forward_hook(lambda module, given, result: pooled.append(given[0]))
    size = ((image[0] + 15) // 16, (image[1] + 15) // 16)
    x = torch.rand(1, 2, *size)
    out = pooling(x, image, 16)
    assert out.shape == x.shape
    assert pooled[0].shape[2:] == (size[0] - window[0] + 1, size[1] - window[1] + 1)
    torch.testing.assert_close(pooled[0][..., 0, 0], x[..., : window[0], : window[1]].mean((2, 3)))


def test_a_pooling_crop_replaces_the_image_and_shrinks_with_it() -> None:
    """A crop of 65x33 at stride 16: windows 5x3; at half the size, that is 33x17, 3x2."""
    built = cell((PyramidBranch(grid_size=(1, 1)),), image_pooling_crop=(65, 33))
    pooled = []
    built.branches[0].project.register_forward_hook(
        lambda module, given, result: pooled.append(given[0].shape[2:])
    )
    with torch.inference_mode():
        for scale in (1.0, 0.5):
            built(torch.rand(1, 6, 9, 9), (129, 129), scale)
    assert pooled == [(5, 7), (7, 8)]


def test_branches_feed_one_another_and_all_are_concatenated() -> None:
    """Two 1x1 branches worked out by hand: 1x1 of x, 1x1 of that; projection adds them."""
    built = DensePredictionCell(
        1,
        config=DensePredictionCellConfig(
            channels=1, branches=(ConvBranch(kernel=1), ConvBranch(kernel=1, input=0))
        ),
        norm=None,
        resize="align_corners",
    ).eval()
    for branch, (weight, bias) in zip(built.branches, ((2.0, 1.0), (3.0, -1.0)), strict=True):
        nn.init.constant_(branch.conv.weight, weight)
        nn.init.constant_(branch.conv.bias, bias)
    nn.init.constant_(built.projection.conv.weight, 1.0)
    nn.init.constant_(built.projection.conv.bias, 0.0)
    with torch.inference_mode():
        out = built(torch.tensor([[[[1.0, -1.0]]]]), (1, 17))
    # x = 1: 3 and 8; x = -1: relu(-1) = 0 and relu(-1) = 0
    assert out.flatten().tolist() == [11.0, 0.0]


@pytest.mark.parametrize("branches", [CITYSCAPES_CELL, MIXED], ids=["published", "mixed"])
def test_any_size_and_stride_and_every_parameter_learns(branches: tuple) -> None:
    model = build(branches).eval()
    with torch.inference_mode():
        for size, stride in (((1, 1), 16), ((70, 54), 16), ((33, 50), 8), ((70, 54), 32)):
            model.output_stride = stride
            logits = model(torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8))
            assert logits.shape == (1, 5, *size)
            assert logits.isfinite().all()
    model.output_stride = 16
    model.train()
    images = torch.randint(0, 256, (1, 3, 65, 49), dtype=torch.uint8)
    batch_loss(model, images, torch.randint(0, 5, (1, 65, 49), dtype=torch.uint8)).backward()
    assert [
        name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()
    ] == []


class StridedCell(nn.Module):
    """A mixed cell on a 3x3 convolution of stride 16: little to trace but the cell."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 16, 1)
        self.cell = cell()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.cell(self.stem(images), images.shape[2:])


def test_exports_with_dynamic_sizes() -> None:
    """Windows follow the image in the exported program too; a grid of 4 needs sides above 64 pixels there."""
    model = StridedCell().eval()
    dynamic = torch.export.Dim.DYNAMIC
    images = torch.rand(2, 3, 81, 97)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},))
    for size in ((1, 3, 70, 162), (3, 3, 145, 65)):
        images = torch.rand(size)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(images), model(images), rtol=1e-5, atol=1e-5)


def test_reference_windows_written_into_a_cell_are_left_out() -> None:
    """The reference writes target_size and kernel of one crop into its branches; ours follow the image."""
    written = {
        "op": "pyramid_pooling",
        "grid_size": [4, 2],
        "input": -1,
        "target_size": [9, 9],
        "kernel": [3, 5],
    }
    options = {
        "model_variant": "mobilenet_v2",
        "outputs_to_num_classes": {"semantic": 3},
        "dense_prediction_cell_config": [written, {"op": "conv", "kernel": [1, 1], "input": 0}],
        "atrous_rates": [6, 12, 18],
    }
    context = config_from_options(options).context
    assert context.branches == (PyramidBranch(grid_size=(4, 2)), ConvBranch(kernel=1, input=0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "dpc"}, "context.branches is missing"),
        ({"kind": "aspp", "branches": [{"op": "conv"}]}, "aspp has no key 'branches'"),
        ({"kind": "dpc", "branches": [{"op": "conv", "input": 0}]}, "branch 0 reads branch 0"),
        ({"kind": "dpc", "branches": [{"op": "conv"}], "rates": [6]}, "dpc has no key 'rates'"),
        ({"kind": "dpc", "branches": [{"op": "conv"}], "gate": "sigmoid"}, "dpc has no key 'gate'"),
        ({"kind": "dpc", "branches": [{"op": "max_pool"}]}, "max_pool"),
        ({"kind": "dpc", "branches": [{"op": "conv", "kernel": [3, 5]}]}, "kernel"),
        ({"kind": "dpc", "branches": [{"op": "conv", "rates": [1, 6]}]}, "did you mean 'rate'"),
        ({"kind": "dpc", "branches": [{"op": "pyramid_pooling"}]}, "grid_size"),
    ],
)
def test_mistakes_are_named(values: dict, message: str) -> None:
    model = {"backbone": {"name": "vgg16"}, "num_classes": 2, "context": values}
    with pytest.raises(UserError, match=r"cell\.yaml: ") as error:
        parse_config(DeepLabConfig, model, "cell.yaml")
    assert message in str(error.value)
