"""Backbones by name: the one place where a name becomes a network."""

from __future__ import annotations

from collections.abc import Callable

from deeplab.backbones.base import Backbone
from deeplab.backbones.mobilenet_edgetpu import MobileNetEdgeTPU
from deeplab.backbones.mobilenet_v2 import MobileNetV2
from deeplab.backbones.mobilenet_v3 import MobileNetV3
from deeplab.backbones.nas import NASNet
from deeplab.backbones.resnet import ResNet
from deeplab.backbones.timm_features import TimmFeatures
from deeplab.backbones.vgg import VGG16
from deeplab.backbones.xception import Xception
from deeplab.backbones.xception_original import OriginalXception
from deeplab.config import BackboneConfig, NASConfig
from deeplab.errors import UserError
from deeplab.layers.norm import NormLayer


def _mobilenet_v2(config: BackboneConfig, norm: NormLayer | None) -> Backbone:
    return MobileNetV2(
        width=config.width,
        divisor=config.divisor,
        in_channels=config.in_channels,
        norm=norm,
        padding_rule=config.padding,
        rate_grows_at=config.rate_grows_at,
        low_level_at=config.low_level_at,
        last_conv=config.last_conv,
    )


def _mobilenet_v3(config: BackboneConfig, norm: NormLayer | None) -> Backbone:
    size, _, variant = config.name.removeprefix("mobilenet_v3_").partition("_")
    return MobileNetV3(
        size,
        halved_tail=variant == "seg",
        width=config.width,
        divisor=config.divisor,
        in_channels=config.in_channels,
        norm=norm,
        padding_rule=config.padding,
        rate_grows_at=config.rate_grows_at,
    )


def _mobilenet_edgetpu(config: BackboneConfig, norm: NormLayer | None) -> Backbone:
    return MobileNetEdgeTPU(
        width=config.width,
        divisor=config.divisor,
        last_channels=config.last_channels,
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
        rate_grows_at=config.rate_grows_at,
        stem=config.stem,
        multi_grid=config.multi_grid,
        cascade=config.cascade,
        in_channels=config.in_channels,
        norm=norm,
        padding_rule=config.padding,
    )


def _vgg16(config: BackboneConfig, norm: NormLayer | None) -> Backbone:
    return VGG16(in_channels=config.in_channels, padding_rule=config.padding)


def _xception(config: BackboneConfig, norm: NormLayer | None) -> Backbone:
    return Xception(
        int(config.name.removeprefix("xception")),
        multi_grid=config.multi_grid,
        bounded=config.bounded,
        in_channels=config.in_channels,
        norm=norm,
    )


def _xception_original(config: BackboneConfig, norm: NormLayer | None) -> Backbone:
    return OriginalXception(in_channels=config.in_channels, norm=norm)


def _nas(config: BackboneConfig, norm: NormLayer | None) -> Backbone:
    return NASNet(
        hierarchical=config.name == "hnasnet",
        options=config.nas or NASConfig(),
        in_channels=config.in_channels,
        norm=norm,
    )


def _timm(config: BackboneConfig, norm: NormLayer | None) -> Backbone:
    if norm is None:
        raise UserError(f"folded: {config.name} keeps timm's own norms; set folded to false")
    return TimmFeatures(config.name.removeprefix(TIMM), in_channels=config.in_channels)


TIMM = "timm:"
BUILDERS: dict[str, Callable[[BackboneConfig, NormLayer | None], Backbone]] = {
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v3_large": _mobilenet_v3,
    "mobilenet_v3_large_seg": _mobilenet_v3,
    "mobilenet_v3_small": _mobilenet_v3,
    "mobilenet_v3_small_seg": _mobilenet_v3,
    "mobilenet_edgetpu": _mobilenet_edgetpu,
    "resnet18": _resnet,
    "resnet18_beta": _resnet,
    "resnet34": _resnet,
    "resnet50": _resnet,
    "resnet50_beta": _resnet,
    "resnet101": _resnet,
    "resnet101_beta": _resnet,
    "resnet152": _resnet,
    "vgg16": _vgg16,
    "xception": _xception_original,
    "xception41": _xception,
    "xception65": _xception,
    "xception71": _xception,
    "pnasnet": _nas,
    "hnasnet": _nas,
}


def build_backbone(config: BackboneConfig, norm: NormLayer | None) -> Backbone:
    """The backbone that `config` describes, with freshly initialised weights."""
    builder = _timm if config.name.startswith(TIMM) else BUILDERS[config.name]
    return builder(config, norm)
