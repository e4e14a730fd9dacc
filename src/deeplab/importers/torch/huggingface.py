"""Hugging Face transformers: MobileNetV2ForSemanticSegmentation, and its classifier of images as a backbone.

Facts of transformers 5.23, models/mobilenet_v2: the reference's light head under new names, TensorFlow's
padding, batch norm eps 1e-3 in the backbone and 1e-5 in the head. The config.json beside a file says the
output stride (8 for the published models), the class names, and whether the padding is TensorFlow's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deeplab.config import ASPPConfig, BackboneConfig, DeepLabConfig, NormConfig
from deeplab.errors import UserError
from deeplab.importers.hints import Hints
from deeplab.importers.new_head import NOTE, new_head
from deeplab.importers.torch.backbones import mobilenet_v2_config, with_options
from deeplab.importers.torch.file import TorchFile
from deeplab.importers.torch.heads import CLASSIFIER, NEW_HEAD
from deeplab.importers.torch.layers import Draft, Layer, Weights, size
from deeplab.model.network import DeepLab
from deeplab.presets.reference import MOBILE_NORM, UNIT_PIXELS
from deeplab.system.reading import foreign, parse_json, read_text

STEM = "conv_stem.first_conv.convolution.weight"
HEAD_NORM = NormConfig(eps=1e-5, momentum=0.003)
HEAD = "segmentation_head"
PARTS = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
LAST = "the last convolution, which belongs to the classifier of images"
UNKNOWN = "no config.json beside the file: output stride 8 and TensorFlow's padding, as published, are taken"


def is_mobilenet(weights: Weights) -> bool:
    """Whether the names are those of a MobileNetV2 of transformers, with either head or none."""
    return STEM in weights or f"mobilenet_v2.{STEM}" in weights


def read_mobilenet(file: TorchFile, hints: Hints) -> Draft:
    """A segmentation model, or the classification network as a backbone."""
    weights = file.weights
    stated = _stated(file.path)
    prefix = "mobilenet_v2." if f"mobilenet_v2.{STEM}" in weights else ""
    backbone, layers = _backbone(prefix, weights, stated)
    left_out = {f"{prefix}conv_1x1.": LAST, "classifier.": "the classifier of images"}
    notes = () if stated else (UNKNOWN,)
    if f"{HEAD}.classifier.convolution.weight" not in weights:
        model = new_head(backbone, pixels=UNIT_PIXELS)
        return Draft("transformers' MobileNetV2", model, layers, left_out, NEW_HEAD, (NOTE, *notes))
    for ours, theirs in (
        ("context.image_pooling.project", "conv_pool"),
        ("context.pointwise", "conv_aspp"),
        ("context.projection", "conv_projection"),
    ):
        layers[ours] = _layer(f"{HEAD}.{theirs}")
    layers[CLASSIFIER] = Layer(f"{HEAD}.classifier.convolution")
    config = DeepLabConfig(
        backbone=backbone,
        context=ASPPConfig(channels=size(weights, f"{HEAD}.conv_aspp.convolution")),
        num_classes=size(weights, f"{HEAD}.classifier.convolution"),
        output_stride=hints.output_stride or stated.get("output_stride", 8),
        head_norm=HEAD_NORM,
        pixels=UNIT_PIXELS.for_channels(backbone.in_channels),
    )
    return Draft(
        network="transformers' MobileNetV2ForSemanticSegmentation",
        model=DeepLab(config),
        layers=layers,
        left_out=left_out,
        notes=notes,
        classes=_classes(stated, config.num_classes),
        complete=bool(stated),
    )


def _backbone(
    prefix: str, weights: Weights, stated: dict[str, Any]
) -> tuple[BackboneConfig, dict[str, Layer]]:
    if stated.get("hidden_act", "relu6") != "relu6" or not stated.get("first_layer_is_expansion", True):
        raise UserError(
            "its config.json describes a MobileNetV2 with another activation or stem, not built here"
        )
    layers = {"backbone.stem": _layer(f"{prefix}conv_stem.first_conv")}
    for block in range(17):
        theirs = f"{prefix}layer.{block - 1}" if block else f"{prefix}conv_stem"
        for ours, name in PARTS.items():
            if f"{theirs}.{name}.convolution.weight" in weights:
                layers[f"backbone.blocks.{block}.{ours}"] = _layer(f"{theirs}.{name}")
    padding = "same" if stated.get("tf_padding", True) else "symmetric"
    norm = NormConfig(eps=stated.get("layer_norm_eps", MOBILE_NORM.eps), momentum=MOBILE_NORM.momentum)
    return with_options(mobilenet_v2_config(layers, weights), padding=padding, norm=norm.model_dump()), layers


def _layer(module: str) -> Layer:
    return Layer(f"{module}.convolution", f"{module}.normalization")


def _stated(path: Path) -> dict[str, Any]:
    """The config.json beside the file, if it describes this kind of network."""
    beside = path.parent / "config.json"
    if not beside.exists():
        return {}
    with foreign(beside, "this is no config of transformers", fix="fetch it again, or take it away"):
        config = parse_json(read_text(beside))
    return config if isinstance(config, dict) and config.get("model_type") == "mobilenet_v2" else {}


def _classes(stated: dict[str, Any], count: int) -> tuple[str, ...]:
    names = stated.get("id2label") or {}
    found = tuple(str(names[str(index)]) for index in range(count) if str(index) in names)
    return found if len(found) == count and found[0] != "LABEL_0" else ()
