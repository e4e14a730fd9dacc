"""The TensorFlow reference's options as a `DeepLabConfig` (reference facts 1.1, 2.1 and 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deeplab.config import (
    ASPPConfig,
    BackboneConfig,
    ConvBranch,
    DecoderConfig,
    DeepLabConfig,
    DensePredictionCellConfig,
    HNASNetConfig,
    NoContextConfig,
    NormConfig,
    PixelConfig,
    PNASNetConfig,
    PyramidBranch,
    backbone_config,
)

# the stored epsilon and 1 - decay of each family (fact 2.1)
MOBILE_NORM = NormConfig(eps=1e-3, momentum=0.003)
RESNET_NORM = NormConfig(eps=1e-5, momentum=0.05)
XCEPTION_NORM = NormConfig(eps=1e-3, momentum=0.0003)
HEAD_NORM = NormConfig(eps=1e-5, momentum=0.0003)
UNIT_PIXELS = PixelConfig()
IMAGENET_MEAN = PixelConfig(mean=(123.15, 115.90, 103.06), std=(1.0, 1.0, 1.0))

# model_variant -> our name, norm, pixels
VARIANTS: dict[str, tuple[str, NormConfig, PixelConfig]] = {
    "mobilenet_v2": ("mobilenet_v2", MOBILE_NORM, UNIT_PIXELS),
    "mobilenet_v3_large_seg": ("mobilenet_v3_large_seg", MOBILE_NORM, UNIT_PIXELS),
    "mobilenet_v3_small_seg": ("mobilenet_v3_small_seg", MOBILE_NORM, UNIT_PIXELS),
    "mobilenet_edgetpu": ("mobilenet_edgetpu", MOBILE_NORM, UNIT_PIXELS),
    "resnet_v1_18": ("resnet18", RESNET_NORM, IMAGENET_MEAN),
    "resnet_v1_18_beta": ("resnet18_beta", RESNET_NORM, UNIT_PIXELS),
    "resnet_v1_50": ("resnet50", RESNET_NORM, IMAGENET_MEAN),
    "resnet_v1_50_beta": ("resnet50_beta", RESNET_NORM, UNIT_PIXELS),
    "resnet_v1_101": ("resnet101", RESNET_NORM, IMAGENET_MEAN),
    "resnet_v1_101_beta": ("resnet101_beta", RESNET_NORM, UNIT_PIXELS),
    "xception_41": ("xception41", XCEPTION_NORM, UNIT_PIXELS),
    "xception_65": ("xception65", XCEPTION_NORM, UNIT_PIXELS),
    "xception_71": ("xception71", XCEPTION_NORM, UNIT_PIXELS),
    "nas_pnasnet": ("pnasnet", XCEPTION_NORM, UNIT_PIXELS),
    "nas_hnasnet": ("hnasnet", XCEPTION_NORM, UNIT_PIXELS),
}


class NotBuilt(NotImplementedError):
    """An option of the reference that this package does not build yet; the message names it."""


def config_from_options(options: Mapping[str, Any]) -> DeepLabConfig:
    """The config of a reference model.

    Args:
        options: the reference's flag names and values, with `outputs_to_num_classes`, `atrous_rates`
            and `output_stride`; what is absent has the reference's default, and what the variant ignores
            there is ignored here. `crop_size` needs no counterpart, models here pool over whatever they are
            given; stated as None it switches `image_pooling_crop_size` off (fact 3.2).

    Raises:
        NotBuilt: an option that has no counterpart yet.
        ValueError: options that do not go together.
    """
    variant = options.get("model_variant", "mobilenet_v2")
    if variant not in VARIANTS:
        raise NotBuilt(f"model_variant {variant}")
    name, norm, pixels = VARIANTS[variant]
    outputs = dict(options["outputs_to_num_classes"])
    if "semantic" not in outputs:
        raise NotBuilt(f"outputs {sorted(outputs)} without one called semantic")
    if len(outputs) > 1 and options.get("decoder_output_is_logits"):
        raise NotBuilt("decoder_output_is_logits with several outputs, which would all be the same")
    with_aspp = options.get("aspp_with_batch_norm", True)
    rates = tuple(options.get("atrous_rates") or ())
    backbone = backbone_config(name, norm=norm, **_heeded(options, name))
    return DeepLabConfig(
        backbone=backbone,
        context=_context(options, rates) if with_aspp else NoContextConfig(),
        decoder=_decoder(options),
        num_classes=outputs.pop("semantic"),
        extra_outputs=outputs,
        classifier_kernel=options.get("logits_kernel_size", 1),
        classifier_rates=() if with_aspp else rates,
        output_stride=_cells_end(backbone) or options.get("output_stride", 8),
        image_pyramid=tuple(options.get("image_pyramid") or (1.0,)),
        pyramid_merge="mean" if options.get("merge_method", "max") == "avg" else "max",
        head_norm=HEAD_NORM,
        pixels=pixels,
        bounded=options.get("use_bounded_activation", False),
    )


def _heeded(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the family of this name heeds of the options (fact 1.1)."""
    if name.startswith("mobilenet"):
        divisor = {"divisor": options.get("divisible_by")} if name == "mobilenet_v2" else {}
        return {"width": options.get("depth_multiplier", 1.0), **divisor}
    if name.startswith(("resnet", "xception")):
        return {"multi_grid": tuple(options.get("multi_grid") or ())}
    flags = options.get("nas_architecture_options") or options
    stride = options.get("output_stride", 8)
    hierarchical = name == "hnasnet"
    return {
        "filters": flags.get("nas_stem_output_num_conv_filters", 20),
        "classification_head": flags.get("nas_use_classification_head", False),
        # changes nothing in a network that has no cells of stride 32
        "remove_os32_stride": flags.get("nas_remove_os32_stride", False) and (hierarchical or stride == 32),
        "drop_path_keep": options.get("drop_path_keep_prob", 1.0),
        **({} if hierarchical else {"stride": stride}),
    }


def _cells_end(backbone: BackboneConfig) -> int | None:
    """Where searched cells end whatever `output_stride` says, unless layers behind them go on (fact 2.9)."""
    if isinstance(backbone, HNASNetConfig):
        return None if backbone.classification_head else backbone.stride
    return 16 if isinstance(backbone, PNASNetConfig) and backbone.remove_os32_stride else None


def _context(options: Mapping[str, Any], rates: tuple[int, ...]) -> ASPPConfig | DensePredictionCellConfig:
    crop = options.get("image_pooling_crop_size")
    cell = options.get("dense_prediction_cell_config")
    if cell:
        # the reference's cell heeds none of the aspp flags
        return DensePredictionCellConfig(
            branches=tuple(map(_branch, cell)), image_pooling_crop=tuple(crop) if crop else None
        )
    pooled = options.get("add_image_level_feature", True)
    if options.get("crop_size", crop) is None:
        crop = None
    gate = None
    if pooled and options.get("aspp_with_squeeze_and_excitation"):
        gate = "qsigmoid" if options.get("image_se_uses_qsigmoid") else "sigmoid"
    return ASPPConfig(
        channels=options.get("aspp_convs_filters", 256),
        rates=rates,
        separable=options.get("aspp_with_separable_conv", True),
        image_pooling=pooled,
        image_pooling_crop=tuple(crop) if crop else None,
        image_pooling_stride=tuple(options.get("image_pooling_stride") or (1, 1)) if crop else (1, 1),
        gate=gate,
        projection=options.get("aspp_with_concat_projection", True),
    )


def _branch(branch: Mapping[str, Any]) -> ConvBranch | PyramidBranch:
    if branch["op"] == "pyramid_pooling":
        # the reference writes the window of the crop at hand into the branch; here it follows from the image
        return PyramidBranch(input=branch["input"], grid_size=branch["grid_size"])
    return ConvBranch(input=branch["input"], kernel=branch["kernel"], rate=branch.get("rate", (1, 1)))


def _decoder(options: Mapping[str, Any]) -> DecoderConfig | None:
    strides = options.get("decoder_output_stride")
    if not strides:
        return None
    return DecoderConfig(
        strides=tuple(strides),
        channels=options.get("decoder_filters", 256),
        separable=options.get("decoder_use_separable_conv", True),
        merge="sum" if options.get("decoder_use_sum_merge") else "concat",
        output_is_logits=options.get("decoder_output_is_logits", False),
    )
