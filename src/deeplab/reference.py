"""The TensorFlow reference's options as a `DeepLabConfig` (reference facts 1.1, 2.1 and 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deeplab.config import (
    BackboneConfig,
    ContextConfig,
    DecoderConfig,
    DeepLabConfig,
    NormConfig,
    PixelConfig,
)

# the stored epsilon and 1 - decay of each family (fact 2.1)
MOBILE_NORM = NormConfig(eps=1e-3, momentum=0.003)
RESNET_NORM = NormConfig(eps=1e-5, momentum=0.05)
HEAD_NORM = NormConfig(eps=1e-5, momentum=0.0003)
UNIT_PIXELS = PixelConfig()
IMAGENET_MEAN = PixelConfig(mean=(123.15, 115.90, 103.06), std=(1.0, 1.0, 1.0))

# model_variant -> our name, norm, pixels
VARIANTS: dict[str, tuple[str, NormConfig, PixelConfig]] = {
    "mobilenet_v2": ("mobilenet_v2", MOBILE_NORM, UNIT_PIXELS),
    "resnet_v1_18": ("resnet18", RESNET_NORM, IMAGENET_MEAN),
    "resnet_v1_18_beta": ("resnet18_beta", RESNET_NORM, UNIT_PIXELS),
    "resnet_v1_50": ("resnet50", RESNET_NORM, IMAGENET_MEAN),
    "resnet_v1_50_beta": ("resnet50_beta", RESNET_NORM, UNIT_PIXELS),
    "resnet_v1_101": ("resnet101", RESNET_NORM, IMAGENET_MEAN),
    "resnet_v1_101_beta": ("resnet101_beta", RESNET_NORM, UNIT_PIXELS),
}


class NotBuilt(NotImplementedError):
    """An option of the reference that this package does not build yet; the message names it."""


def config_from_options(options: Mapping[str, Any]) -> DeepLabConfig:
    """The config of a reference model.

    Args:
        options: the reference's flag names and values, with `outputs_to_num_classes`, `atrous_rates`
            and `output_stride`; what is absent has the reference's default. `crop_size` needs no
            counterpart: models here pool over whatever they are given.

    Raises:
        NotBuilt: an option that has no counterpart yet.
        ValueError: options that do not go together.
    """
    variant = options.get("model_variant", "mobilenet_v2")
    if variant not in VARIANTS:
        raise NotBuilt(f"model_variant {variant}")
    if options.get("dense_prediction_cell_config"):
        raise NotBuilt("dense prediction cell")
    name, norm, pixels = VARIANTS[variant]
    outputs = dict(options["outputs_to_num_classes"])
    with_aspp = options.get("aspp_with_batch_norm", True)
    rates = tuple(options.get("atrous_rates") or ())
    mobile = name.startswith("mobilenet")
    return DeepLabConfig(
        backbone=BackboneConfig(
            name=name,
            width=options.get("depth_multiplier", 1.0) if mobile else 1.0,
            divisor=options.get("divisible_by") if mobile else None,
            multi_grid=tuple(options.get("multi_grid") or ()),
            norm=norm,
        ),
        context=_context(options, rates) if with_aspp else ContextConfig(kind="none"),
        decoder=_decoder(options),
        num_classes=outputs.pop("semantic"),
        extra_outputs=outputs,
        classifier_kernel=options.get("logits_kernel_size", 1),
        classifier_rates=() if with_aspp else rates,
        output_stride=options.get("output_stride", 8),
        image_pyramid=tuple(options.get("image_pyramid") or (1.0,)),
        pyramid_merge="mean" if options.get("merge_method", "max") == "avg" else "max",
        head_norm=HEAD_NORM,
        pixels=pixels,
        bounded=options.get("use_bounded_activation", False),
    )


def _context(options: Mapping[str, Any], rates: tuple[int, ...]) -> ContextConfig:
    crop = options.get("image_pooling_crop_size")
    gate = None
    if options.get("aspp_with_squeeze_and_excitation"):
        gate = "qsigmoid" if options.get("image_se_uses_qsigmoid") else "sigmoid"
    return ContextConfig(
        kind="aspp",
        channels=options.get("aspp_convs_filters", 256),
        rates=rates,
        separable=options.get("aspp_with_separable_conv", True),
        image_pooling=options.get("add_image_level_feature", True),
        image_pooling_crop=tuple(crop) if crop else None,
        image_pooling_stride=tuple(options.get("image_pooling_stride") or (1, 1)) if crop else (1, 1),
        gate=gate,
        projection=options.get("aspp_with_concat_projection", True),
    )


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
