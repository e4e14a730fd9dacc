"""A model made ready for inference: batch norms inside convolutions, bfloat16 if wanted, oneDNN's own layouts.

In eval mode a batch norm is a factor and an offset a channel, so that conv(x, w) * factor + offset is
conv(x, w * factor) + offset. Logits agree to about 1e-5 of the largest in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from deeplab.errors import UserError
from deeplab.heads.aspp import ASPP
from deeplab.heads.classifier import Classifier
from deeplab.heads.decoder import DecoderStage
from deeplab.heads.packed_aspp import PackedASPP
from deeplab.heads.packed_decoder import PackedDecoderStage
from deeplab.layers.conv import AtrousConv2d, ConvNormAct, SeparableConv
from deeplab.layers.int8_conv import Int8Conv
from deeplab.layers.inverted_residual import InvertedResidual
from deeplab.layers.packed_conv import FUSED, PackedConv, PassedConv
from deeplab.layers.packed_separable import PackedInvertedResidual, PackedSeparableConv
from deeplab.model.network import DeepLab
from deeplab.native.int8 import Range

NO_RANGES: Mapping[str, Range] = MappingProxyType({})
PRECISIONS = ("float32", "bfloat16")
ONE_PASS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    SeparableConv: PackedSeparableConv.of,
    InvertedResidual: PackedInvertedResidual.of,
    DecoderStage: PackedDecoderStage.of,
    ASPP: PackedASPP.of,
}


def for_inference(
    model: DeepLab,
    *,
    device: torch.device,
    precision: str = "float32",
    ranges: Mapping[str, Range] = NO_RANGES,
) -> DeepLab:
    """A copy of `model` in eval mode, as fast as it gets on `device`.

    Models from quantised files keep their own arithmetic, and everything on the way to it.

    Args:
        model: is left as it is.
        device: where the copy goes.
        precision: 'bfloat16' computes with 8 bits of mantissa, twice as fast where the processor has such
            instructions; labels change at some edges.
        ranges: of convolutions, by name, that compute in 8 bits on processors, see `deeplab.prediction.int8.ranges`.

    Raises:
        UserError: no such precision, or bfloat16 for a model that computes in 8 bits.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r}; allowed are {', '.join(PRECISIONS)}")
    if model.eight_bit and precision != "float32":
        raise UserError(
            f"precision {precision}: this model computes in 8 bits",
            fix="leave the precision away, or set model.eight_bit = False",
        )
    ready = folded(model).eval()
    if precision == "bfloat16":
        pixels = ready.pixel_mean, ready.pixel_std
        ready.to(torch.bfloat16)
        # pixels are normalised in float32, their mean is no bfloat16
        ready.pixel_mean, ready.pixel_std = pixels
    ready.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    if device.type == "cpu" and not model.eight_bit:
        # a packed layer holds its activation, where 8-bit arithmetic does not look for it
        ready.eight_bit_tables = None
        _pack(ready, ranges)
        _join_classifier(ready)
    return ready


def folded(model: DeepLab) -> DeepLab:
    """A copy of `model` without batch norms, for inference; its config says so, so that it can be saved.

    Where norms stand elsewhere than behind their convolution, as in timm's backbones, they stay.
    """
    result = copy.deepcopy(model)
    for layer in result.modules():
        if isinstance(layer, ConvNormAct) and isinstance(layer.norm, nn.BatchNorm2d):
            _fold(layer, layer.norm)
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in result.modules()):
        result.config = result.config.model_copy(update={"folded": True})
    return result


@torch.no_grad()
def _fold(layer: ConvNormAct, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    # in float64: rounded once
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    offset = norm.bias.double() - norm.running_mean.double() * factor
    weight = layer.conv.weight
    weight.copy_(weight.double() * factor.view(-1, 1, 1, 1))
    layer.conv.bias = nn.Parameter(offset.to(weight.dtype), requires_grad=weight.requires_grad)
    layer.norm = nn.Identity()


def _join_classifier(model: DeepLab) -> None:
    """The largest map of a v3+ network is read by its classifier alone: neither write nor read it."""
    classifiers = [each for each in model.classifiers.values() if isinstance(each, Classifier)]
    stage = None if model.decoder is None else model.decoder.stages[-1]
    if not isinstance(stage, DecoderStage) or stage.merge != "concat" or len(classifiers) != 1:
        return
    convs, last = classifiers[0].convs, stage.convs[-1]
    conv = convs[0]
    # of those in floats only the convolution that upsamples knows how
    knows = isinstance(conv, Int8Conv) or len(stage.convs) == 1
    if (
        len(convs) == 1
        and knows
        and isinstance(conv, PackedConv)
        and isinstance(last, PackedSeparableConv)
        and last.joins(conv)
    ):
        convs[0] = PassedConv.of(conv, conv.activation)


def _pack(model: nn.Module, ranges: Mapping[str, Range] = NO_RANGES) -> None:
    """Replace every convolution by its packed form, with the activation behind it where oneDNN knows that."""
    for layer in model.modules():
        if isinstance(layer, ConvNormAct):
            fuses = isinstance(layer.norm, nn.Identity) and type(layer.activation) in FUSED
            layer.conv = PackedConv.of(layer.conv, layer.activation if fuses else nn.Identity())
            if fuses:
                layer.activation = nn.Identity()
    for layer in list(model.modules()):
        for name, child in layer.named_children():
            if type(child) is AtrousConv2d:
                setattr(layer, name, PackedConv.of(child, nn.Identity()))
    for place, layer in list(model.named_modules()):
        for name, child in layer.named_children():
            values = ranges.get(f"{place}.{name}".lstrip("."))
            if values is not None:
                setattr(layer, name, Int8Conv.on(child, values))
    # when all that they consist of is packed
    for layer in list(model.modules()):
        for name, child in layer.named_children():
            if type(child) in ONE_PASS:
                setattr(layer, name, ONE_PASS[type(child)](child))
