"""jfzhang95/pytorch-deeplab-xception: DeepLabv3+ on ResNet-101 and MobileNetV2.

Facts read from that repository's modeling/aspp.py, decoder.py and backbone: plain convolutions; corners
aligned; ResNet-101 has multi-grid 1, 2, 4 and gives the higher rate to the unit that loses its stride;
MobileNetV2 pads a block's input before the expansion and changes rates between stages. Files do not say the
output stride: 16 for the published ones. Its Xception rectifies shortcuts, unlike the paper's, and was never
published with weights: not built.
"""

from __future__ import annotations

from deeplab.config import BackboneConfig, DeepLabConfig
from deeplab.errors import UserError
from deeplab.importers.hints import Hints
from deeplab.importers.torch.backbones import mobilenet_v2, resnet, with_options
from deeplab.importers.torch.file import TorchFile
from deeplab.importers.torch.heads import CLASSIFIER, DETAIL, aspp_config, decoder_config, stated
from deeplab.importers.torch.layers import TORCH_NORM, TORCH_PIXELS, Draft, Layer, Weights, in_order, size
from deeplab.model.network import DeepLab

RATES = (6, 12, 18)
MULTI_GRID = (1, 2, 4)
LAST_CONVS = 3
COPY = "the same arrays under another name"


def is_deeplab(weights: Weights) -> bool:
    """Whether the names are those of jfzhang95's v3+."""
    return "aspp.aspp1.atrous_conv.weight" in weights


def read_deeplab(file: TorchFile, hints: Hints) -> Draft:
    """jfzhang95's v3+."""
    weights = file.weights
    backbone, layers = _backbone(weights, hints.multi_grid or MULTI_GRID)
    channels = size(weights, "aspp.aspp1.atrous_conv")
    layers["context.pointwise"] = Layer("aspp.aspp1.atrous_conv", "aspp.aspp1.bn")
    for branch in range(3):
        theirs = f"aspp.aspp{branch + 2}"
        layers[f"context.atrous.{branch}"] = Layer(f"{theirs}.atrous_conv", f"{theirs}.bn")
    layers["context.image_pooling.project"] = Layer("aspp.global_avg_pool.1", "aspp.global_avg_pool.2")
    # pooling comes last in theirs
    layers["context.projection"] = Layer("aspp.conv1", "aspp.bn1", roll=channels)
    layers[f"{DETAIL}.project"] = Layer("decoder.conv1", "decoder.bn1")
    # their numbers depend on the version, which has dropout between them or not
    last = in_order(weights, "decoder.last_conv.")
    if len(last) != LAST_CONVS:
        raise UserError(
            f"decoder.last_conv has {len(last)} convolutions, a network of this kind {LAST_CONVS}"
        )
    first, second, classifier = last
    layers |= {f"{DETAIL}.convs.0": first, f"{DETAIL}.convs.1": second, CLASSIFIER: classifier}
    rates, output_stride = stated(hints, rates=RATES, output_stride=16, proportional=True)
    config = DeepLabConfig(
        backbone=backbone,
        context=aspp_config(layers, weights, rates=rates, dropout=0.5),
        decoder=decoder_config(layers, weights),
        num_classes=size(weights, classifier.conv),
        output_stride=output_stride,
        head_norm=TORCH_NORM,
        pixels=TORCH_PIXELS.for_channels(backbone.in_channels),
    )
    return Draft(
        network="jfzhang95's deeplab",
        model=DeepLab(config),
        layers=layers,
        left_out={"backbone.low_level_features.": COPY, "backbone.high_level_features.": COPY},
        notes=("in training, this source also drops out inside its decoder (0.5 and 0.1)",),
    )


def _backbone(weights: Weights, multi_grid: tuple[int, ...]) -> tuple[BackboneConfig, dict[str, Layer]]:
    if "backbone.layer4.0.conv1.weight" in weights and "backbone.layer0.0.weight" not in weights:
        backbone, layers = resnet("backbone.", weights)
        return with_options(backbone, multi_grid=multi_grid, rate_grows_at="unit"), layers
    if "backbone.features.0.0.weight" in weights:
        backbone, layers = mobilenet_v2([f"backbone.features.{index}." for index in range(18)], weights)
        options = {"padding": "block", "rate_grows_at": "next_stage", "low_level_at": "outputs"}
        return with_options(backbone, **options), layers
    raise UserError(
        "its backbone is neither ResNet-101 nor MobileNetV2 (Xception and DRN are not built here)"
    )
