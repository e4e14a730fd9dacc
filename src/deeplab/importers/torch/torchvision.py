"""torchvision: deeplabv3_resnet50 / 101 / mobilenet_v3_large, and its classification networks as backbones.

Facts of torchvision 0.28, models/segmentation/deeplabv3.py: rates 12, 24, 36 at output stride 8 (ResNets)
or 16 (MobileNetV3); a 3x3 between ASPP and classifier; half-pixel resizing. Its MobileNetV3 has batch norm
eps 1e-3 and gives the higher rate to the unit that loses its stride.
"""

from __future__ import annotations

from deeplab.config import DeepLabConfig
from deeplab.importers.hints import Hints
from deeplab.importers.new_head import NOTE, new_head
from deeplab.importers.torch.backbones import mobilenet_v2, mobilenet_v3, resnet, vgg16
from deeplab.importers.torch.file import TorchFile
from deeplab.importers.torch.heads import CLASSIFIER, NEW_HEAD, aspp, aspp_config, stated
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


def is_deeplab(weights: Weights) -> bool:
    """Whether the names are those of a torchvision DeepLabv3."""
    return "classifier.0.convs.0.0.weight" in weights and "classifier.4.weight" in weights


def read_deeplab(file: TorchFile, hints: Hints) -> Draft:
    """torchvision's DeepLabv3, without its auxiliary classifier."""
    weights = file.weights
    on_resnet = "backbone.layer1.0.conv1.weight" in weights
    backbone, layers = (resnet if on_resnet else mobilenet_v3)("backbone.", weights)
    layers |= aspp("classifier.0.", weights)
    layers |= spatial_layers("context.refine", "classifier.1", "classifier.2", weights)
    layers[CLASSIFIER] = Layer("classifier.4")
    rates, output_stride = stated(
        hints, rates=RATES, output_stride=8 if on_resnet else 16, proportional=False
    )
    config = DeepLabConfig(
        backbone=backbone,
        context=aspp_config(layers, weights, rates=rates, dropout=0.5),
        num_classes=size(weights, "classifier.4"),
        output_stride=output_stride,
        head_norm=TORCH_NORM,
        resize="half_pixel",
        pixels=TORCH_PIXELS.for_channels(backbone.in_channels),
    )
    return Draft(
        network="torchvision's deeplabv3",
        model=DeepLab(config),
        layers=layers,
        left_out={"aux_classifier.": "the auxiliary classifier, which serves training"},
    )


def is_classifier(weights: Weights) -> bool:
    """Whether the names are those of a torchvision ResNet, MobileNet or VGG."""
    resnet_like = "conv1.weight" in weights and "layer1.0.conv1.weight" in weights
    return resnet_like or "features.0.0.weight" in weights or "features.0.weight" in weights


def read_classifier(file: TorchFile, hints: Hints) -> Draft:
    """A classification network as the backbone of a new model."""
    weights = file.weights
    notes = [NOTE]
    if "conv1.weight" in weights:
        backbone, layers = resnet("", weights)
    elif "features.0.weight" in weights:
        backbone, layers = vgg16("features.", weights)
        notes.append("the poolings are 3x3 here, as in v1 and v2; these weights were trained with 2x2")
    elif any(name.startswith("features.1.block.") for name in weights):
        backbone, layers = mobilenet_v3("features.", weights)
    else:
        backbone, layers = mobilenet_v2([f"features.{index}." for index in range(18)], weights)
    return Draft(
        network=f"an ImageNet {backbone.name}",
        model=new_head(backbone, pixels=TORCH_PIXELS),
        layers=layers,
        left_out={
            "fc.": "the classifier of images",
            "classifier.": "the classifier of images",
            "features.18.": "the last convolution, which belongs to the classifier of images",
        },
        new=NEW_HEAD,
        notes=tuple(notes),
    )
