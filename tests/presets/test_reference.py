"""The reference's options: what a variant ignores is ignored, what goes together builds and runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deeplab import DeepLab
from deeplab.backbones import build_backbone
from deeplab.config import DeepLabConfig
from deeplab.importers.tensorflow.names import tensorflow_variables
from deeplab.presets.reference import NotBuilt, config_from_options

PLAIN = {"outputs_to_num_classes": {"semantic": 5}, "output_stride": 16, "aspp_convs_filters": 8}
SEARCHED = {"nas_stem_output_num_conv_filters": 4, "nas_use_classification_head": False}


def config(**options: Any) -> DeepLabConfig:
    return config_from_options({**PLAIN, **options})


def test_multi_grid_is_ignored_where_the_reference_ignores_it() -> None:
    for variant in ("mobilenet_v2", "mobilenet_v3_small_seg", "nas_pnasnet"):
        assert config(model_variant=variant, multi_grid=[1, 2, 4]) == config(model_variant=variant)
    assert config(model_variant="xception_41", multi_grid=[1, 2, 4]).backbone.multi_grid == (1, 2, 4)


@pytest.mark.parametrize("width", [0.1, 0.35, 0.5, 1.0, 1.4])
@pytest.mark.parametrize("divisor", [None, 1, 8, 16, 64])
def test_mobilenet_v2_rounds_channels_as_the_reference(width: float, divisor: int | None) -> None:
    """slim's rule, with 8 channels at least at multiplier 1 and 1 at any other (fact 2.4)."""
    least = 8 if width == 1 else 1
    by = divisor or least

    def rounded(value: float) -> int:
        found = max(least, int(value + by / 2) // by * by)
        return found + by if found < 0.9 * value else found

    options = config(model_variant="mobilenet_v2", depth_multiplier=width, divisible_by=divisor)
    with torch.device("meta"):
        backbone = build_backbone(options.backbone)
    found = [backbone.stem.conv.out_channels, *(block.project.conv.out_channels for block in backbone.blocks)]
    bases = [32, 16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    assert found == [rounded(base * width) for base in bases]
    if (width, divisor) == (0.35, 16):
        assert found[1] == 17


def test_a_gate_needs_the_image_level_feature() -> None:
    gated = {"aspp_with_squeeze_and_excitation": True}
    assert config(**gated).context.gate == "sigmoid"
    assert config(**gated, image_se_uses_qsigmoid=True).context.gate == "qsigmoid"
    assert config(**gated, add_image_level_feature=False).context.gate is None


def test_without_a_crop_the_pooling_crop_is_ignored() -> None:
    """Reference fact 3.2: crop_size None means a global mean."""
    pooled = {"image_pooling_crop_size": [33, 49], "image_pooling_stride": [2, 1]}
    assert config(**pooled, crop_size=None).context.image_pooling_crop is None
    assert config(**pooled, crop_size=None).context.image_pooling_stride == (1, 1)
    for given in ({}, {"crop_size": [65, 97]}):
        context = config(**pooled, **given).context
        assert (context.image_pooling_crop, context.image_pooling_stride) == ((33, 49), (2, 1))


@pytest.mark.parametrize(
    ("variant", "removed", "sides"),
    [
        ("nas_pnasnet", False, (9, 9, 9, 9, 5, 5, 5, 5, 3, 3, 3, 3)),
        ("nas_pnasnet", True, (9, 9, 9, 9, 5, 5, 5, 5, 5, 5, 5, 5)),
        ("nas_hnasnet", True, (17, 17, 17, 9, 5, 9, 5, 5, 5, 5, 5, 9)),
    ],
)
def test_both_searched_networks_may_stay_at_stride_16(
    variant: str, removed: bool, sides: tuple[int, ...]
) -> None:
    """Reference fact 2.9: entering level 3 has stride 1, filters double all the same."""
    flags = {**SEARCHED, "nas_remove_os32_stride": removed}
    built = config(model_variant=variant, output_stride=32, nas_architecture_options=flags)
    with torch.device("meta"):
        model = DeepLab(built).eval()
        found: list[tuple[int, int]] = []
        for cell in model.backbone.cells:
            cell.register_forward_hook(lambda module, inputs, out: found.append(tuple(out.shape[1:3])))
        features, _ = model.backbone(torch.zeros(1, 3, 65, 65))
    assert tuple(side for _, side in found) == sides
    levels = (
        (1,) * 4 + (2,) * 4 + (3,) * 4 if variant == "nas_pnasnet" else (0, 0, 0, 1, 2, 1, 2, 2, 3, 3, 2, 1)
    )
    assert tuple(channels for channels, _ in found) == tuple(5 * 4 * 2**level for level in levels)
    assert features.shape[-1] == -(-65 // model.output_stride)


@pytest.mark.parametrize(
    "options",
    [
        {"decoder_output_stride": [16, 8, 4], "depth_multiplier": 0.35, "divisible_by": 8},
        {"decoder_output_stride": [16, 4], "decoder_use_sum_merge": True, "decoder_filters": 8},
        {"decoder_output_stride": [8], "decoder_output_is_logits": True, "decoder_filters": 5},
        {"aspp_with_batch_norm": False, "atrous_rates": [2, 4], "logits_kernel_size": 3,
         "decoder_output_stride": [8], "outputs_to_num_classes": {"semantic": 5, "edges": 2}},
        {"image_pyramid": [0.5, 1.0, 1.5], "merge_method": "avg", "crop_size": [64, 90],
         "outputs_to_num_classes": {"semantic": 5, "edges": 2}},
        {"image_pyramid": [0.5], "add_image_level_feature": False},
        {"model_variant": "mobilenet_v3_small_seg", "output_stride": 8, "decoder_output_stride": [4],
         "depth_multiplier": 0.5, "image_pooling_crop_size": [33, 33], "image_pooling_stride": [2, 1]},
        {"output_stride": 8, "image_pyramid": [1.0, 0.5], "aspp_with_squeeze_and_excitation": True,
         "dense_prediction_cell_config": [
             {"op": "conv", "kernel": [1, 1], "input": -1},
             {"op": "conv", "kernel": 5, "rate": [2, 3], "input": 0},
             {"op": "pyramid_pooling", "grid_size": [2, 3], "input": 1},
         ]},
    ],
)  # fmt: skip
def test_unusual_options_build_and_give_logits_of_the_references_size(options: dict[str, Any]) -> None:
    """Reference fact 3.7: int((side - 1) * max(1, scales) / stride + 1), by decoder or output stride."""
    with torch.device("meta"):
        model = DeepLab(config(**options)).eval()
        logits = model.low_resolution_logits(torch.zeros(1, 3, 64, 90))
    assert tensorflow_variables(model)
    stride = min(options.get("decoder_output_stride") or [options.get("output_stride", 16)])
    scale = max(1.0, *(options.get("image_pyramid") or [1.0]))
    size = tuple(int((side - 1) * scale / stride + 1) for side in (64, 90))
    outputs = options.get("outputs_to_num_classes", {"semantic": 5})
    assert {name: tuple(value.shape[1:]) for name, value in logits.items()} == {
        name: (classes, *size) for name, classes in outputs.items()
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_variant": "resnet_v1_152"}, "model_variant resnet_v1_152"),
        ({"outputs_to_num_classes": {"edges": 2}}, "without one called semantic"),
        (
            {"outputs_to_num_classes": {"semantic": 5, "edges": 5}, "decoder_output_is_logits": True},
            "several",
        ),
    ],
)
def test_what_is_not_built_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NotBuilt, match=message):
        config(**options)
