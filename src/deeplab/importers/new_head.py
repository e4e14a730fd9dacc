"""Backbone weights as a whole model: a new head around them, to be trained.

Files of classification networks hold no DeepLab head. The model they start has the head that its paper gives
this backbone, with random values: v1's LargeFOV on VGG-16, the light head of the reference's mobile models
on the MobileNets, v3+'s on everything else.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from deeplab.config import (
    ASPPConfig,
    BackboneConfig,
    DecoderConfig,
    DeepLabConfig,
    FullyConnectedConfig,
    MobileNetConfig,
    PixelConfig,
    VGG16Config,
)
from deeplab.config.labels import LabelSpec
from deeplab.imaging.palettes import VOC_CLASSES
from deeplab.importers.fill import fill
from deeplab.model.network import DeepLab

# v1 section 3.1 and the released LargeFOV model
LARGE_FOV = FullyConnectedConfig(channels=1024, rates=(12,), smooth=True, dropout=0.5)
NOTE = "the head is new and random: train the model before use (it starts with PASCAL VOC's 21 classes)"


def new_head(backbone: BackboneConfig, *, pixels: PixelConfig) -> DeepLab:
    """An untrained model of VOC's classes around `backbone`."""
    mobile, vgg = isinstance(backbone, MobileNetConfig), isinstance(backbone, VGG16Config)
    config = DeepLabConfig(
        backbone=backbone,
        context=LARGE_FOV if vgg else ASPPConfig(rates=() if mobile else (6, 12, 18)),
        decoder=None if mobile or vgg else DecoderConfig(),
        num_classes=len(VOC_CLASSES),
        output_stride=8 if vgg else 16,
        pixels=pixels.for_channels(backbone.in_channels),
    )
    return DeepLab(config, LabelSpec.named(VOC_CLASSES))


def fill_except(
    model: DeepLab, weights: Mapping[str, torch.Tensor], *, new: tuple[str, ...], source: str
) -> int:
    """Fill all of `model` but the parts whose keys begin with one of `new`, which keep their values.

    Batch norms' counters of seen batches, which no other framework has, stay as they are.

    Returns:
        the number of tensors that were kept.

    Raises:
        UserError: as `fill`.
    """
    own = model.state_dict()
    kept = {key: value for key, value in own.items() if key.startswith(new) and key not in weights}
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    fill(model, {**kept, **counters, **weights}, source=source)
    return len(kept.keys() - counters.keys())
