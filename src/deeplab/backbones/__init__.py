"""Backbones by name: the one place where a name becomes a network."""

from __future__ import annotations

from collections.abc import Callable

from deeplab.backbones.base import Backbone
from deeplab.backbones.mobilenet_v2 import MobileNetV2
from deeplab.backbones.resnet import ResNet
from deeplab.backbones.vgg import VGG16
from deeplab.config import BackboneConfig
from deeplab.layers.norm import NormLayer


def _mobilenet_v2(config: BackboneConfig, norm: NormLayer | None) -> Backbone:
    return MobileNetV2(
        width=config.width,
        divisor=config.divisor,
        in_channels=config.in_channels,
        norm=norm,
        padding_rule=config.padding,
    )


def _resnet(config: BackboneConfig, norm: NormLayer | None) -> Backbone:
    name, _, beta = config.name.partition("_")
    return ResNet(
        int(name.removeprefix("resnet")),
        beta=beta == "beta",
        strides_at=config.strides_at,
        multi_grid=config.multi_grid,
        in_channels=config.in_channels,
        norm=norm,
        padding_rule=config.padding,
    )


def _vgg16(config: BackboneConfig, norm: NormLayer | None) -> Backbone:
    return VGG16(in_channels=config.in_channels, padding_rule=config.padding)


BUILDERS: dict[str, Callable[[BackboneConfig, NormLayer | None], Backbone]] = {
    "mobilenet_v2": _mobilenet_v2,
    "resnet18": _resnet,
    "resnet18_beta": _resnet,
    "resnet50": _resnet,
    "resnet50_beta": _resnet,
    "resnet101": _resnet,
    "resnet101_beta": _resnet,
    "vgg16": _vgg16,
}


def build_backbone(config: BackboneConfig, norm: NormLayer | None) -> Backbone:
    """The backbone that `config` describes, with freshly initialised weights."""
    return BUILDERS[config.name](config, norm)
