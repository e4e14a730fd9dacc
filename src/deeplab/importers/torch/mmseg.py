"""mmsegmentation: deeplabv3 and deeplabv3plus on ResNet-50 and 101, v1c (a stem of three 3x3) and plain.

Facts read from that repository's mmseg/models and configs/_base_/models: ASPP with the pooled branch first
and a 3x3 projection; separable convolutions as in the reference; output stride 8, rates 12, 24, 36;
half-pixel resizing but in the 769x769 models. Checkpoints carry their config and class names, and what those
say is used; its multi-grid states rates themselves, ours factors on the block's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from deeplab.config import DeepLabConfig
from deeplab.errors import UserError
from deeplab.importers.hints import Hints, flag
from deeplab.importers.torch.backbones import resnet, with_options
from deeplab.importers.torch.file import TorchFile
from deeplab.importers.torch.heads import CLASSIFIER, DETAIL, aspp_config, decoder_config
from deeplab.importers.torch.layers import TORCH_NORM, TORCH_PIXELS, Draft, Layer, Weights, count, size
from deeplab.model.network import DeepLab

HEAD = "decode_head"
# of heads with out_channels=1, where their config names none
BINARY_THRESHOLD = 0.3


class Stated(NamedTuple):
    """What the config inside a checkpoint says; the base configs' values where none is `found`."""

    found: bool = False
    rates: tuple[int, ...] = (12, 24, 36)
    output_stride: int = 8
    multi_grid: tuple[int, ...] = ()
    align_corners: bool = False
    threshold: float = BINARY_THRESHOLD


def is_deeplab(weights: Weights) -> bool:
    """Whether the names are those of mmsegmentation's ASPP heads."""
    return f"{HEAD}.aspp_modules.0.conv.weight" in weights


def read_deeplab(file: TorchFile, hints: Hints) -> Draft:
    """deeplabv3 or deeplabv3plus, without the auxiliary head."""
    weights = file.weights
    if "backbone.layer1.0.conv3.weight" not in weights:
        raise UserError("its backbone is no ResNet-50 or 101; others of mmsegmentation's are not built here")
    meta = file.meta.get("meta", {})
    stated = _stated(str(meta.get("config") or meta.get("cfg") or ""))
    if stated.found and hints.of_structure():
        flags = ", ".join(map(flag, hints.of_structure()))
        raise UserError(f"the checkpoint has its config inside, which says these things: leave {flags} away")
    backbone, layers = resnet("backbone.", weights)
    layers |= _head(weights)
    config = DeepLabConfig(
        backbone=with_options(backbone, multi_grid=hints.multi_grid or _factors(stated)),
        context=aspp_config(layers, weights, rates=hints.rates or stated.rates, dropout=0.1),
        decoder=decoder_config(layers, weights) if f"{DETAIL}.project" in layers else None,
        num_classes=size(weights, f"{HEAD}.conv_seg"),
        output_stride=hints.output_stride or stated.output_stride,
        head_norm=TORCH_NORM,
        resize="align_corners" if stated.align_corners else "half_pixel",
        pixels=TORCH_PIXELS.for_channels(backbone.in_channels),
    )
    return Draft(
        network="mmsegmentation's deeplab",
        model=DeepLab(config),
        layers=layers,
        left_out={"auxiliary_head.": "the auxiliary head, which serves training"},
        notes=()
        if stated.found
        else ("the file has no config of mmsegmentation's: its base config is taken",),
        classes=_classes(meta),
        complete=stated.found,
        threshold=stated.threshold if config.num_classes == 1 else None,
    )


def _head(weights: Weights) -> dict[str, Layer]:
    layers = {
        "context.image_pooling.project": _module(f"{HEAD}.image_pool.1"),
        "context.pointwise": _module(f"{HEAD}.aspp_modules.0"),
        "context.projection": _module(f"{HEAD}.bottleneck"),
        CLASSIFIER: Layer(f"{HEAD}.conv_seg"),
    }
    for branch in range(1, count(weights, rf"{HEAD}\.aspp_modules\.(\d+)\.")):
        layers |= _spatial(f"context.atrous.{branch - 1}", f"{HEAD}.aspp_modules.{branch}", weights)
    if f"{HEAD}.c1_bottleneck.conv.weight" in weights:
        layers[f"{DETAIL}.project"] = _module(f"{HEAD}.c1_bottleneck")
        for index in (0, 1):
            layers |= _spatial(f"{DETAIL}.convs.{index}", f"{HEAD}.sep_bottleneck.{index}", weights)
    return layers


def _module(name: str) -> Layer:
    return Layer(f"{name}.conv", f"{name}.bn")


def _spatial(ours: str, name: str, weights: Weights) -> dict[str, Layer]:
    if f"{name}.conv.weight" in weights:
        return {ours: _module(name)}
    return {f"{ours}.{step}": _module(f"{name}.{step}_conv") for step in ("depthwise", "pointwise")}


def _stated(text: str) -> Stated:
    """What the config's Python text says: its backbone stands before the decode head, all else behind."""
    before, found, behind = text.partition("decode_head")
    if not found:
        return Stated()
    head = behind.partition("auxiliary_head")[0]
    strides = _numbers("strides", before) or (1, 2, 1, 1)
    return Stated(
        found=True,
        rates=(_numbers("dilations", head) or (1, 12, 24, 36))[1:],
        output_stride=4 * math.prod(strides),
        multi_grid=_numbers("multi_grid", before),
        align_corners=re.search(r"align_corners\s*=\s*True", head) is not None,
        threshold=_threshold(head),
    )


def _numbers(name: str, text: str) -> tuple[int, ...]:
    match = re.search(rf"\b{name}\s*=\s*[(\[]([\d,\s]+)[)\]]", text)
    return tuple(int(number) for number in match[1].split(",") if number.strip()) if match else ()


def _threshold(text: str) -> float:
    match = re.search(r"\bthreshold\s*=\s*([\d.]+)", text)
    return float(match[1]) if match else BINARY_THRESHOLD


def _factors(stated: Stated) -> tuple[int, ...]:
    """Their rates of block4's units as factors on ours: the first has half the rate of the others."""
    rate = 32 // stated.output_stride
    whole = [rate // 2 or 1] + [rate] * (len(stated.multi_grid) - 1)
    pairs = list(zip(stated.multi_grid, whole, strict=False))
    if any(theirs % ours for theirs, ours in pairs):
        raise UserError(
            f"multi_grid {stated.multi_grid} at output stride {stated.output_stride} is not built here"
        )
    return tuple(theirs // ours for theirs, ours in pairs)


def _classes(meta: Mapping[str, Any]) -> tuple[str, ...]:
    names = meta.get("CLASSES") or (meta.get("dataset_meta") or {}).get("classes") or ()
    return tuple(map(str, names))
