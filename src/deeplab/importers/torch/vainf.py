"""VainF/DeepLabV3Plus-Pytorch: DeepLabv3 and v3+ on ResNets and MobileNetV2.

Facts read from that repository's network/_deeplab.py, modeling.py and backbone/mobilenetv2.py: v3 as in
torchvision; v3+'s decoder puts the low-level features first and has one 3x3; half-pixel resizing; MobileNetV2
pads a block's input before the expansion, and its decoder features are block outputs. Files do not say the
output stride: 16 for the published ones, with rates 6, 12, 18.
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

RATES = (6, 12, 18)
HEAD = "classifier.classifier"


def is_deeplab(weights: Weights) -> bool:
    """Whether the names are those of VainF's v3 or v3+."""
    return f"{HEAD}.0.convs.0.0.weight" in weights or "classifier.aspp.convs.0.0.weight" in weights


def read_deeplab(file: TorchFile, hints: Hints) -> Draft:
    """VainF's v3 or v3+, plain or with separable convolutions."""
    weights = file.weights
    backbone, layers = _backbone(weights)
    plus = "classifier.project.0.weight" in weights
    if plus:
        low_level = size(weights, "classifier.project.0")
        layers |= aspp("classifier.aspp.", weights)
        layers[f"{DETAIL}.project"] = Layer("classifier.project.0", "classifier.project.1")
        # theirs: low-level features, then context; ours the other way round
        layers |= spatial_layers(f"{DETAIL}.convs.0", f"{HEAD}.0", f"{HEAD}.1", weights, roll=-low_level)
        last = f"{HEAD}.3"
    else:
        layers |= aspp(f"{HEAD}.0.", weights)
        layers |= spatial_layers("context.refine", f"{HEAD}.1", f"{HEAD}.2", weights)
        last = f"{HEAD}.4"
    layers[CLASSIFIER] = Layer(last)
    rates, output_stride = stated(hints, rates=RATES, output_stride=16, proportional=True)
    config = DeepLabConfig(
        backbone=backbone,
        context=aspp_config(layers, weights, rates=rates, dropout=0.1),
        decoder=decoder_config(layers, weights) if plus else None,
        num_classes=size(weights, last),
        output_stride=output_stride,
        head_norm=TORCH_NORM,
        resize="half_pixel",
        depthwise_norm=False,
        pixels=TORCH_PIXELS.for_channels(backbone.in_channels),
    )
    return Draft(network=f"VainF's deeplabv3{'plus' if plus else ''}", model=DeepLab(config), layers=layers)


def _backbone(weights: Weights) -> tuple[BackboneConfig, dict[str, Layer]]:
    if "backbone.layer1.0.conv1.weight" in weights:
        return resnet("backbone.", weights)
    if "backbone.low_level_features.0.0.weight" not in weights:
        raise UserError(
            "its backbone is neither ResNet nor MobileNetV2 (HRNet and Xception are not built here)"
        )
    parts = [f"backbone.low_level_features.{index}." for index in range(4)]
    parts += [f"backbone.high_level_features.{index}." for index in range(14)]
    backbone, layers = mobilenet_v2(parts, weights)
    return with_options(backbone, padding="block", low_level_at="outputs"), layers
