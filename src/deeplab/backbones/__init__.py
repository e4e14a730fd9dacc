"""Backbones by config: the one place where a config becomes a network."""

from __future__ import annotations

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
from deeplab.config import (
    BackboneConfig,
    BasicResNetConfig,
    BottleneckResNetConfig,
    MobileNetEdgeTPUConfig,
    MobileNetV2Config,
    MobileNetV3Config,
    OriginalXceptionConfig,
    TimmConfig,
    VGG16Config,
    XceptionConfig,
)
from deeplab.layers.norm import norm_layer


def build_backbone(config: BackboneConfig, *, folded: bool = False, bounded: bool = False) -> Backbone:
    """The backbone that `config` describes, with freshly initialised weights.

    Args:
        folded: norms are folded into biases.
        bounded: an Xception's variant for quantisation; other backbones are alike in bounded models.

    Raises:
        UserError: what timm cannot build.
        ValueError: multi_grid of a length that the network does not have.
    """
    if isinstance(config, VGG16Config):
        return VGG16(config)
    if isinstance(config, TimmConfig):
        return TimmFeatures(config, folded=folded)
    norm = norm_layer(eps=config.norm.eps, momentum=config.norm.momentum, folded=folded)
    match config:
        case MobileNetV2Config():
            return MobileNetV2(config, norm)
        case MobileNetV3Config():
            return MobileNetV3(config, norm)
        case MobileNetEdgeTPUConfig():
            return MobileNetEdgeTPU(config, norm)
        case BasicResNetConfig() | BottleneckResNetConfig():
            return ResNet(config, norm)
        case OriginalXceptionConfig():
            return OriginalXception(config, norm)
        case XceptionConfig():
            return Xception(config, norm, bounded=bounded)
        case _:
            return NASNet(config, norm)
