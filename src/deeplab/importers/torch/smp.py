"""segmentation_models.pytorch: DeepLabV3 and DeepLabV3Plus on ResNets and MobileNetV2.

Facts of version 0.6.0, decoders/deeplabv3: separable convolutions without norm between their steps; a 3x3
behind ASPP; one 3x3 in the decoder; corner-aligned resizing. Encoders give the higher rate to the unit that
loses its stride, MobileNetV2 goes on to 1280 channels, and its decoder features are block outputs. Files say
neither output stride (8 for DeepLabV3, 16 for DeepLabV3Plus unless chosen) nor rates (12, 24, 36).
"""

from __future__ import annotations

from deeplab.config import BackboneConfig, DeepLabConfig
from deeplab.errors import UserError
from deeplab.importers.hints import Hints
from deeplab.importers.torch.backbones import mobilenet_v2, resnet, with_options
from deeplab.importers.torch.file import TorchFile
from deeplab.importers.torch.heads import CLASSIFIER, DETAIL, aspp, aspp_config, decoder_config, stated
from deeplab.importers.torch.layers import (
    TORCH_NORM,
    TORCH_PIXELS,
    Draft,
    Layer,
    Weights,
    size,
    spatial_layers,
)
from deeplab.model.network import DeepLab

RATES = (12, 24, 36)
HEAD = "segmentation_head.0"
# of DeepLabV3 since 0.4 and before, and of DeepLabV3Plus
ASPPS = ("decoder.aspp.", "decoder.0.", "decoder.aspp.0.")


def is_deeplab(weights: Weights) -> bool:
    """Whether the names are those of a DeepLab of segmentation_models.pytorch, of any version."""
    return f"{HEAD}.weight" in weights and any(f"{prefix}convs.0.0.weight" in weights for prefix in ASPPS)


def read_deeplab(file: TorchFile, hints: Hints) -> Draft:
    """DeepLabV3 or DeepLabV3Plus, without its classifier of images."""
    weights = file.weights
    backbone, layers = _encoder(weights)
    plus = "decoder.block1.0.weight" in weights
    if plus:
        layers |= aspp("decoder.aspp.0.", weights)
        layers |= spatial_layers("context.refine", "decoder.aspp.1", "decoder.aspp.2", weights)
        layers[f"{DETAIL}.project"] = Layer("decoder.block1.0", "decoder.block1.1")
        layers |= spatial_layers(f"{DETAIL}.convs.0", "decoder.block2.0", "decoder.block2.1", weights)
    else:
        current = "decoder.conv.weight" in weights
        layers |= aspp("decoder.aspp." if current else "decoder.0.", weights)
        conv, norm = ("decoder.conv", "decoder.bn") if current else ("decoder.1", "decoder.2")
        layers |= spatial_layers("context.refine", conv, norm, weights)
    layers[CLASSIFIER] = Layer(HEAD)
    rates, output_stride = stated(hints, rates=RATES, output_stride=16 if plus else 8, proportional=False)
    config = DeepLabConfig(
        backbone=backbone,
        context=aspp_config(layers, weights, rates=rates, dropout=0.5),
        decoder=decoder_config(layers, weights) if plus else None,
        num_classes=size(weights, HEAD),
        output_stride=output_stride,
        head_norm=TORCH_NORM,
        depthwise_norm=False,
        pixels=TORCH_PIXELS.for_channels(backbone.in_channels),
    )
    return Draft(
        network=f"segmentation_models.pytorch's DeepLabV3{'Plus' if plus else ''}",
        model=DeepLab(config),
        layers=layers,
        left_out={"classification_head.": "the classifier of images"},
    )


def _encoder(weights: Weights) -> tuple[BackboneConfig, dict[str, Layer]]:
    if "encoder.layer1.0.conv1.weight" in weights:
        backbone, layers = resnet("encoder.", weights)
        return with_options(backbone, rate_grows_at="unit"), layers
    if "encoder.features.18.0.weight" in weights:
        parts = [f"encoder.features.{index}." for index in range(19)]
        backbone, layers = mobilenet_v2(parts, weights, last=True)
        return with_options(backbone, rate_grows_at="unit", low_level_at="outputs"), layers
    names = ", ".join([name for name in weights if name.startswith("encoder.")][:3])
    raise UserError(f"its encoder ({names}, ...) is not built here", allowed="ResNets and MobileNetV2")
