"""Backbones under the names that PyTorch libraries share: ResNet, MobileNetV2 and V3, VGG-16.

torchvision's names, and those of every package that builds on its networks, whatever stands before them. The
configs that come with the layers are torchvision's; sources that differ say how (`with_options`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from deeplab.backbones.mobilenet_v2 import STAGES, channels_at
from deeplab.backbones.resnet import LITE, UNITS
from deeplab.backbones.vgg import STAGES as VGG_STAGES
from deeplab.config import BackboneConfig, MobileNetV2Config, NormConfig, VGG16Config, backbone_config
from deeplab.errors import UserError
from deeplab.importers.torch.layers import TORCH_NORM, Layer, Weights, count, in_order, size

Layers = dict[str, Layer]
MOBILE_V3_NORM = NormConfig(eps=1e-3, momentum=0.01)
# number of torchvision's feature modules -> MobileNetV3
MOBILE_V3 = {17: "mobilenet_v3_large", 13: "mobilenet_v3_small"}
WIDTHS = (1.0, 0.75, 0.5, 0.35, 0.25, 1.3, 1.4)
# the gates here multiply by 0.16667 (reference fact 2.5), PyTorch's by 1/6; the projection behind makes it up
GATE_FACTOR = (1 / 6) / 0.16667
MOBILE_PARTS = ("expand", "depthwise", "squeeze_excite.reduce", "squeeze_excite.expand", "project")


def with_options(backbone: BackboneConfig, **changes: Any) -> BackboneConfig:
    """`backbone` with other options, validated together."""
    return backbone_config(**backbone.model_dump() | changes)


def resnet(prefix: str, weights: Weights) -> tuple[BackboneConfig, Layers]:
    """A ResNet: conv1 (or stem.0, 3, 6 as in mmsegmentation's v1c), layer1 to layer4.

    Raises:
        UserError: another number of units, or units of another width (ResNeXt, wide ResNet).
    """
    units = tuple(count(weights, rf"{re.escape(prefix)}layer{number}\.(\d+)\.") for number in (1, 2, 3, 4))
    bottleneck = f"{prefix}layer1.0.conv3.weight" in weights
    kind = "bottleneck" if bottleneck else "basic"
    depth = next((d for d, known in UNITS.items() if known == units and (d not in LITE) == bottleneck), None)
    if depth is None:
        raise UserError(f"a ResNet of {units} {kind} units is none of {', '.join(map(str, UNITS))}")
    if tuple(weights[f"{prefix}layer1.0.conv2.weight"].shape[:2]) != (64, 64):
        raise UserError("its units have another width: a ResNeXt or wide ResNet, which is not built here")
    layers = {"backbone.stem.0": Layer(f"{prefix}conv1", f"{prefix}bn1")}
    stem = None
    if f"{prefix}stem.0.weight" in weights:
        rows = in_order(weights, f"{prefix}stem.")
        layers = {f"backbone.stem.{index}": layer for index, layer in enumerate(rows)}
        stem = tuple(size(weights, layer.conv) for layer in rows)
    for block, length in enumerate(units):
        for unit in range(length):
            ours, theirs = f"backbone.blocks.{block}.{unit}", f"{prefix}layer{block + 1}.{unit}"
            layers |= _unit(ours, theirs, weights)
    config = backbone_config(
        f"resnet{depth}",
        in_channels=size(weights, layers["backbone.stem.0"].conv, 1),
        strides_at="first",
        stem=stem,
        padding="symmetric",
        norm=TORCH_NORM,
    )
    return config, layers


def _unit(ours: str, theirs: str, weights: Weights) -> Layers:
    layers = {
        f"{ours}.conv{number}": Layer(f"{theirs}.conv{number}", f"{theirs}.bn{number}")
        for number in (1, 2, 3)
        if f"{theirs}.conv{number}.weight" in weights
    }
    if f"{theirs}.downsample.0.weight" in weights:
        layers[f"{ours}.shortcut"] = Layer(f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    return layers


def mobilenet_v2(
    parts: Sequence[str], weights: Weights, *, last: bool = False
) -> tuple[BackboneConfig, Layers]:
    """A MobileNetV2 at any width.

    Args:
        parts: beginnings of the names of the stem, the 17 blocks, and (with `last`) the last convolution.

    Raises:
        UserError: channels that no width gives.
    """
    layers = _mobilenet(parts, weights, last=last)
    return mobilenet_v2_config(layers, weights), layers


def mobilenet_v2_config(layers: Layers, weights: Weights) -> MobileNetV2Config:
    """The MobileNetV2 that `layers` make up.

    Raises:
        UserError: channels that no width gives.
    """
    width, divisor = _width(layers, weights)
    return MobileNetV2Config(
        in_channels=size(weights, layers["backbone.stem"].conv, 1),
        width=width,
        divisor=divisor,
        min_channels=divisor,
        padding="symmetric",
        last_conv="backbone.last" in layers,
        norm=TORCH_NORM,
    )


def mobilenet_v3(prefix: str, weights: Weights) -> tuple[BackboneConfig, Layers]:
    """torchvision's MobileNetV3: modules 0 (stem), blocks, and a last convolution.

    Raises:
        UserError: another number of blocks.
    """
    modules = count(weights, rf"{re.escape(prefix)}(\d+)\.")
    if modules not in MOBILE_V3:
        raise UserError(f"{modules} feature modules; MobileNetV3 has 17 (large) or 13 (small)")
    layers = _mobilenet([f"{prefix}{index}." for index in range(modules)], weights, last=True)
    config = backbone_config(
        MOBILE_V3[modules],
        in_channels=size(weights, layers["backbone.stem"].conv, 1),
        padding="symmetric",
        rate_grows_at="unit",
        norm=MOBILE_V3_NORM,
    )
    return config, layers


def vgg16(prefix: str, weights: Weights) -> tuple[BackboneConfig, Layers]:
    """A VGG-16 without batch norm: features.0, 2, 5, ...

    Raises:
        UserError: another number of convolutions, or batch norm.
    """
    found = in_order(weights, prefix)
    norms = " with batch norm" if any(layer.norm for layer in found) else ""
    if len(found) != 13 or norms:
        raise UserError(
            f"a VGG of {len(found)} convolutions{norms}; only VGG-16 without batch norm is built here"
        )
    places = [
        f"backbone.stages.{stage}.{i}" for stage, (_, length) in enumerate(VGG_STAGES) for i in range(length)
    ]
    config = VGG16Config(in_channels=size(weights, found[0].conv, 1), padding="symmetric")
    return config, dict(zip(places, found, strict=True))


def _mobilenet(parts: Sequence[str], weights: Weights, *, last: bool) -> Layers:
    rows = [in_order(weights, part) for part in parts]
    empty = [part for part, row in zip(parts, rows, strict=True) if not row]
    if empty:
        raise UserError(f"there is no convolution under {empty[0]}, which a network of this kind has")
    layers = {"backbone.stem": rows.pop(0)[0]}
    if last:
        layers["backbone.last"] = rows.pop()[0]
    for index, row in enumerate(rows):
        # the first block has no expansion, some of V3's have a gate, whose convolutions have no norm
        gate = MOBILE_PARTS[2:4] if any(layer.norm is None for layer in row) else ()
        if gate:
            row[-1] = row[-1]._replace(factor=GATE_FACTOR)
        names = [*MOBILE_PARTS[:2], *gate, MOBILE_PARTS[4]][-len(row) :]
        if len(names) != len(row):
            raise UserError(f"{parts[index + 1]} has {len(row)} convolutions, a MobileNet's block 2 to 5")
        layers |= {f"backbone.blocks.{index}.{name}": layer for name, layer in zip(names, row, strict=True)}
    return layers


def _width(layers: Layers, weights: Weights) -> tuple[float, int | None]:
    outs = [layers["backbone.stem"], *(layers[f"backbone.blocks.{index}.project"] for index in range(17))]
    seen = [size(weights, layer.conv) for layer in outs]
    bases = [32, *(channels for _, channels, repeats, _ in STAGES for _ in range(repeats))]
    for width in (*WIDTHS, seen[-1] / bases[-1]):
        for divisor in (8, 1):
            if seen == [channels_at(base, width, divisor, divisor) for base in bases]:
                return width, None if divisor == (8 if width == 1.0 else 1) else divisor
    raise UserError(f"no width of MobileNetV2 gives its channels {seen}; at width 1 they are {bases}")
