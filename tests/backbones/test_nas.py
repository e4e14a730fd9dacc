"""Searched networks: cells, sizes, strides, drop path (reference fact 2.9)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deeplab.backbones import build_backbone
from deeplab.backbones.nas import NASNet
from deeplab.backbones.nas_operations import DropPath, make_operation, set_drop_path_progress
from deeplab.config import ASPPConfig, DecoderConfig, DeepLabConfig, backbone_config
from deeplab.layers.norm import norm_layer
from deeplab.model.network import DeepLab

NORM = norm_layer(eps=1e-3, momentum=3e-4)
# the reference's end-point shapes at 97 x 129, filters 20 (golden vector f02)
HNASNET_SHAPES = [
    (100, 25, 33),
    (100, 25, 33),
    (100, 25, 33),
    (200, 13, 17),
    (400, 7, 9),
    (200, 13, 17),
    (400, 7, 9),
    (400, 7, 9),
    (800, 4, 5),
    (800, 4, 5),
    (400, 7, 9),
    (200, 13, 17),
]


def nas(name: str, **options: object) -> NASNet:
    torch.manual_seed(0)
    return build_backbone(backbone_config(name, **options)).eval()


def model_of(name: str, output_stride: int = 8, strides: tuple[int, ...] = (), **options: object) -> DeepLab:
    torch.manual_seed(0)
    config = DeepLabConfig(
        backbone=backbone_config(name, filters=4, **options),
        context=ASPPConfig(rates=(6,), channels=8),
        decoder=DecoderConfig(strides=strides, channels=8, low_level_channels=8) if strides else None,
        num_classes=5,
        output_stride=output_stride,
    )
    return DeepLab(config)


def cell_shapes(backbone: NASNet, height: int, width: int) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    for cell in backbone.cells:
        cell.register_forward_hook(lambda m, a, out: shapes.append(tuple(out.shape[1:])))
    backbone(torch.empty(1, 3, height, width, device="meta"))
    return shapes


def test_hnasnet_goes_down_to_32_and_back_to_8() -> None:
    with torch.device("meta"):
        assert cell_shapes(nas("hnasnet"), 97, 129) == HNASNET_SHAPES


def test_hnasnet_without_stride_32() -> None:
    with torch.device("meta"):
        shapes = cell_shapes(nas("hnasnet", remove_os32_stride=True), 65, 65)
    assert shapes[8:] == [(800, 5, 5), (800, 5, 5), (400, 5, 5), (200, 9, 9)]


def test_hnasnet_on_even_sizes_doubles_to_an_odd_size() -> None:
    """64 -> 16 -> 8 -> 4, back to 2 * 4 - 1 = 7 and 4; 2 at stride 32, back to 3 and 5."""
    with torch.device("meta"):
        shapes = cell_shapes(nas("hnasnet", filters=4), 64, 64)
    assert [shape[1] for shape in shapes] == [16, 16, 16, 8, 4, 7, 4, 4, 2, 2, 3, 5]


@pytest.mark.parametrize(
    ("stride", "sides", "channels"),
    [
        (8, [9] * 12, [200] * 12),
        (16, [9] * 4 + [5] * 8, [200] * 4 + [400] * 8),
        (32, [9] * 4 + [5] * 4 + [3] * 4, [200] * 4 + [400] * 4 + [800] * 4),
    ],
)
def test_pnasnet_widths_follow_its_stride(stride: int, sides: list[int], channels: list[int]) -> None:
    with torch.device("meta"):
        shapes = cell_shapes(nas("pnasnet", stride=stride), 65, 65)
    assert shapes == [(c, side, side) for c, side in zip(channels, sides, strict=True)]


def test_a_strided_atrous_convolution_resizes_with_aligned_corners() -> None:
    """With a delta as kernel it is relu and subsampling: pixels 0, 2, 4 of 5; 0 and 3 of 4."""
    operation = make_operation("atrous_3x3", 1, stride=2, norm=None, keep=1.0)
    conv = operation[0].project.conv
    assert conv.dilation == (1, 1)
    with torch.no_grad():
        conv.weight.zero_()[0, 0, 1, 1] = 1.0
        conv.bias.zero_()
        for side, kept in ((5, [0, 2, 4]), (4, [0, 3])):
            x = torch.randn(1, 1, side, side)
            torch.testing.assert_close(operation(x), x.relu()[:, :, kept][..., kept])


def test_operations_rectify_and_dilate() -> None:
    x = -torch.rand(1, 2, 6, 6)
    assert torch.equal(make_operation("none", 2, stride=1, norm=NORM, keep=0.5)(x), x)
    assert make_operation("atrous_5x5", 2, stride=1, norm=NORM, keep=1.0)[0].project.conv.dilation == (2, 2)
    for name in ("separable_3x3", "separable_7x7", "atrous_3x3"):
        operation = make_operation(name, 2, stride=1, norm=NORM, keep=1.0).eval()
        assert torch.equal(operation(x), torch.zeros_like(x))
    strided = make_operation("none", 2, stride=2, norm=NORM, keep=1.0).eval()
    assert torch.equal(strided(x), torch.zeros(1, 2, 3, 3))


def test_strided_separable_operation_pads_explicitly() -> None:
    """5x5 of ones over ones, stride 2, two pixels of zeros before: corners see 3 x 3 ones on size 4."""
    operation = make_operation("separable_5x5", 1, stride=2, norm=None, keep=1.0)
    first = operation[0]
    with torch.no_grad():
        first.depthwise.weight.fill_(1.0)
        first.pointwise.conv.weight.fill_(1.0)
        first.pointwise.conv.bias.zero_()
        assert first(torch.ones(1, 1, 4, 4))[0, 0].tolist() == [[9, 12], [12, 16]]


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.6).train()
    out = layer(torch.ones(4000, 2, 1, 3))
    per_image = out.flatten(1)
    assert torch.equal(per_image.amin(1), per_image.amax(1))
    torch.testing.assert_close(per_image.amax(), torch.tensor(1 / 0.6))
    assert abs(out.mean().item() - 1) < 0.05
    layer.progress = 0.5
    torch.testing.assert_close(layer(torch.ones(50, 1, 1, 1)).amax(), torch.tensor(1 / 0.8))


def test_drop_path_is_for_training_and_grows_with_it() -> None:
    layer = DropPath(0.5)
    x = torch.ones(100, 1, 1, 1)
    assert torch.equal(layer.eval()(x), x)
    layer.train()
    set_drop_path_progress(layer, 0.0)
    assert torch.equal(layer(x), x)
    set_drop_path_progress(layer, 2.0)
    assert layer.progress == 1.0
    with pytest.raises(ValueError, match=r"found -0\.1"):
        set_drop_path_progress(layer, -0.1)


def test_drop_path_by_cell() -> None:
    """keep = 1 - (cell + 1) / 12 * (1 - p); on every operation but 'none'."""
    with torch.device("meta"):
        backbone = nas("pnasnet", filters=4, drop_path_keep=0.4)
        without = nas("pnasnet", filters=4)
    keeps = [{m.keep for m in cell.modules() if isinstance(m, DropPath)} for cell in backbone.cells]
    assert [round(keep, 6) for (keep,) in keeps] == [round(1 - 0.05 * (cell + 1), 6) for cell in range(12)]
    assert sum(isinstance(m, DropPath) for m in backbone.cells[0].modules()) == 9
    assert not any(isinstance(m, DropPath) for m in without.modules())
    assert list(backbone.state_dict()) == list(without.state_dict())


@pytest.mark.parametrize(
    ("output_stride", "expected"), [(8, [(1, 2), (1, 4)]), (16, [(2, 1), (1, 2)]), (32, [(2, 1), (2, 1)])]
)
def test_classification_head_strides(output_stride: int, expected: list[tuple[int, int]]) -> None:
    with torch.device("meta"):
        backbone = nas("hnasnet", filters=4, classification_head=True)
        backbone.set_output_stride(output_stride)
        features, _ = backbone(torch.empty(1, 3, 65, 65))
    convs = [part.conv for part in backbone.head.downsample.values()]
    assert [(conv.stride[0], conv.dilation[0]) for conv in convs] == expected
    assert [conv.out_channels for conv in convs] == [512, 1024]
    assert features.shape == (1, 2048, 64 // output_stride + 1, 64 // output_stride + 1)


def test_strides_that_the_cells_cannot_reach() -> None:
    with torch.device("meta"):
        hnasnet, pnasnet = nas("hnasnet"), nas("pnasnet", stride=16, classification_head=True)
    with pytest.raises(ValueError, match=r"output stride 16 .*\[8\]"):
        hnasnet.set_output_stride(16)
    with pytest.raises(ValueError, match=r"output stride 8 .*\[16, 32\]"):
        pnasnet.set_output_stride(8)


def test_no_projection_where_channels_already_fit() -> None:
    """With 32 filters PNASNet's first cell has 64, as many as the stem's second convolution."""
    with torch.device("meta"):
        cells = nas("pnasnet", filters=32).cells
    assert cells[0].earlier is None
    assert cells[1].earlier is not None


@pytest.mark.parametrize("name", ["hnasnet", "pnasnet"])
def test_any_size_in_the_same_size_out(name: str) -> None:
    model = model_of(name, strides=(16, 8, 4)).eval()
    with torch.inference_mode():
        for size in ((1, 1), (33, 65), (70, 54), (50, 33)):
            logits = model(torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8))
            assert logits.shape == (1, 5, *size)
            assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options"),
    [("hnasnet", {"drop_path_keep": 0.9}), ("hnasnet", {"classification_head": True}), ("pnasnet", {})],
)
def test_batch_of_one_trains_every_parameter(name: str, options: dict[str, object]) -> None:
    model = model_of(name, strides=(16, 8, 4), **options).train()
    set_drop_path_progress(model, 0.0)
    model(torch.randint(0, 256, (1, 3, 65, 50), dtype=torch.uint8)).square().mean().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []
    assert all(value.grad.isfinite().all() for value in model.parameters())


def test_hnasnet_exports_with_dynamic_sizes() -> None:
    """Its two inputs to a cell agree in size at some image sizes only, which must not become a condition."""
    model = model_of("hnasnet", strides=(4,)).eval()
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
    program = torch.export.export(model, (torch.rand(2, 3, 81, 97) * 255,), dynamic_shapes=shapes)
    with torch.inference_mode():
        for size in ((1, 3, 64, 90), (3, 3, 97, 65)):
            images = torch.rand(size) * 255
            torch.testing.assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-5)


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"xception41.filters"):
        backbone_config("xception41", filters=4)
    with pytest.raises(ValueError, match=r"hnasnet.stride"):
        backbone_config("hnasnet", stride=16)
    with pytest.raises(ValueError, match=r"remove_os32_stride needs cells of stride 32.*found stride 8"):
        backbone_config("pnasnet", remove_os32_stride=True)


@pytest.mark.parametrize("size", [(81, 97), (70, 82), (75, 83)])
def test_hnasnet_without_decoder_gives_logits_on_the_grid(size: tuple[int, int]) -> None:
    """The reference resizes them to (side - 1) / 8 + 1 (fact 3.7); the network itself gives multiples of 32."""
    model = DeepLab(
        DeepLabConfig(
            backbone=backbone_config("hnasnet", filters=4),
            context=ASPPConfig(channels=8),
            num_classes=3,
            output_stride=8,
        )
    ).eval()
    images = torch.rand(1, 3, *size) * 255
    with torch.no_grad():
        found = model.low_resolution_logits(images)["semantic"]
        own = model.scaled_logits(images, 1.0)["semantic"]
    wanted = ((size[0] - 1) // 8 + 1, (size[1] - 1) // 8 + 1)
    assert tuple(own.shape[-2:]) != wanted
    torch.testing.assert_close(found, F.interpolate(own, wanted, mode="bilinear", align_corners=True))
