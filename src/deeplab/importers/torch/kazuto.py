"""kazuto1011/deeplab-pytorch: v2's ResNet-101 with ASPP-L and its multi-scale wrapper; v1's ResNet-101.

Facts read from that repository's libs/models and convert.py: the layout of Caffe's ResNet (stride in the
first 1x1, poolings that round up, the higher rate from the unit that loses its stride on), output stride 8,
BGR photos less a mean, three scales merged by maximum, half-pixel resizing. Published files have ASPP-L's
rates.
"""

from __future__ import annotations

import re

from deeplab.backbones.resnet import LITE, UNITS
from deeplab.config import DeepLabConfig, NoContextConfig, NormConfig, backbone_config
from deeplab.errors import UserError
from deeplab.importers.hints import Hints
from deeplab.importers.torch.file import TorchFile
from deeplab.importers.torch.layers import Draft, Layer, Weights, count, size
from deeplab.model.network import DeepLab
from deeplab.presets.pixels import CAFFE_PIXELS

NORM = NormConfig(eps=1e-5, momentum=0.001)
RATES = (6, 12, 18, 24)
PYRAMID = (1.0, 0.5, 0.75)
PARTS = {"conv1": "reduce", "conv2": "conv3x3", "conv3": "increase", "shortcut": "shortcut"}
# of the multi-scale wrapper, in newer and older versions
WRAPPERS = ("base.", "scale.", "")


def is_deeplab(weights: Weights) -> bool:
    """Whether the names are those of kazuto1011's networks."""
    return any(f"{prefix}layer2.block1.reduce.conv.weight" in weights for prefix in WRAPPERS)


def read_deeplab(file: TorchFile, hints: Hints) -> Draft:
    """v2 with or without the multi-scale wrapper, or v1 (a single 1x1 classifier)."""
    weights = file.weights
    prefix = next(prefix for prefix in WRAPPERS if f"{prefix}layer2.block1.reduce.conv.weight" in weights)
    layers, depth = _resnet(prefix, weights)
    stages = "stages." if f"{prefix}aspp.stages.c0.weight" in weights else ""
    branches = count(weights, rf"{re.escape(prefix)}aspp\.{re.escape(stages)}c(\d+)\.")
    names = [f"{prefix}aspp.{stages}c{branch}" for branch in range(branches)] or [f"{prefix}fc"]
    if weights.get(f"{names[0]}.weight", next(iter(weights.values()))).dim() != 4 or branches not in (
        0,
        len(RATES),
    ):
        raise UserError(f"its head is neither v2's ASPP of {len(RATES)} branches nor v1's 1x1 convolution")
    layers |= {f"classifiers.semantic.convs.{index}": Layer(name) for index, name in enumerate(names)}
    channels = size(weights, f"{prefix}layer1.conv1.conv", 1)
    config = DeepLabConfig(
        backbone=backbone_config(
            f"resnet{depth}",
            in_channels=channels,
            strides_at="first_1x1",
            rate_grows_at="unit",
            padding="caffe",
            norm=NORM,
        ),
        context=NoContextConfig(),
        num_classes=size(weights, names[0]),
        classifier_kernel=size(weights, names[0], 2),
        classifier_rates=(hints.rates or RATES) if branches else (),
        output_stride=hints.output_stride or 8,
        image_pyramid=PYRAMID if prefix else (1.0,),
        resize="half_pixel",
        pixels=CAFFE_PIXELS.for_channels(channels),
    )
    return Draft(network="kazuto1011's deeplab", model=DeepLab(config), layers=layers)


def _resnet(prefix: str, weights: Weights) -> tuple[dict[str, Layer], int]:
    stem = f"{prefix}layer1.conv1"
    layers, units = {"backbone.stem.0": Layer(f"{stem}.conv", f"{stem}.bn")}, []
    for block in range(4):
        theirs = f"{prefix}layer{block + 2}.block"
        length = count(weights, rf"{re.escape(theirs)}(\d+)\.") - 1  # from 1 on
        units.append(length)
        for unit in range(length):
            for part, name in PARTS.items():
                layer = f"{theirs}{unit + 1}.{name}"
                if f"{layer}.conv.weight" in weights:
                    layers[f"backbone.blocks.{block}.{unit}.{part}"] = Layer(f"{layer}.conv", f"{layer}.bn")
    depth = next((d for d, known in UNITS.items() if d not in LITE and known == tuple(units)), None)
    if depth is None:
        raise UserError(f"a ResNet of {units} units; known are those of 50, 101 and 152 layers")
    return layers, depth
