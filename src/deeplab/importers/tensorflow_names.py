"""Which TensorFlow variable holds which of our weights (reference facts 4.2 and 4.3).

Every convolution of ours lives in a scope of the reference; what is inside a scope follows from the
layer: `weights` or `depthwise_weights`, `biases`, and `BatchNorm/{gamma,beta,moving_mean,moving_variance}`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import torch

from deeplab.config import DeepLabConfig
from deeplab.layers.conv import AtrousConv2d, ConvNormAct
from deeplab.model import DeepLab

NORM_VARIABLES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


class Variable(NamedTuple):
    """A variable of the reference and its shape there."""

    name: str
    shape: tuple[int, ...]


def tensorflow_variables(model: DeepLab) -> dict[str, Variable]:
    """For every parameter and statistic of `model`, by state-dict key, its TensorFlow variable."""
    rules = [*_backbone_rules(model.config), *_head_rules(model)]
    variables: dict[str, Variable] = {}
    for path, module in model.named_modules():
        if isinstance(module, ConvNormAct):
            scope = _scope(path, rules)
            variables |= _conv_variables(f"{path}.conv", module.conv, scope)
            for ours in module.norm.state_dict():
                if ours in NORM_VARIABLES:
                    shape = tuple(module.norm.state_dict()[ours].shape)
                    variables[f"{path}.norm.{ours}"] = Variable(f"{scope}/BatchNorm/{NORM_VARIABLES[ours]}", shape)
        elif isinstance(module, AtrousConv2d) and path.startswith("classifiers."):
            variables |= _conv_variables(path, module, _scope(path, rules))
    return variables


def to_torch_layout(value: np.ndarray, name: str) -> torch.Tensor:
    """A TensorFlow array in PyTorch's layout: [kh, kw, in, out] -> [out, in, kh, kw]; depthwise too."""
    if value.ndim == 4:
        order = (2, 3, 0, 1) if name.endswith("depthwise_weights") else (3, 2, 0, 1)
        value = value.transpose(order)
    return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))


def _conv_variables(path: str, conv: AtrousConv2d, scope: str) -> dict[str, Variable]:
    depthwise = conv.groups == conv.in_channels > 1
    out, inner, height, width = conv.weight.shape
    if depthwise:
        weight = Variable(f"{scope}/depthwise_weights", (height, width, out, inner))
    else:
        weight = Variable(f"{scope}/weights", (height, width, inner, out))
    variables = {f"{path}.weight": weight}
    if conv.bias is not None:
        variables[f"{path}.bias"] = Variable(f"{scope}/biases", (out,))
    return variables


Rules = list[tuple[str, str]]


def _scope(path: str, rules: Rules) -> str:
    for pattern, template in rules:
        match = re.fullmatch(pattern, path)
        if match:
            return _evaluate(match.expand(template))
    raise ValueError(f"no TensorFlow scope is known for the layer {path}")


def _evaluate(scope: str) -> str:
    # TensorFlow counts from 1 and leaves a suffix _0 away: <3+1> is 4, <_0> is nothing, <_2> is _2
    scope = re.sub(r"<(\d+)\+1>", lambda m: str(int(m[1]) + 1), scope)
    return re.sub(r"<_(\d+)>", lambda m: "" if m[1] == "0" else f"_{m[1]}", scope)


def _backbone_rules(config: DeepLabConfig) -> Rules:
    name = config.backbone.name
    if name == "mobilenet_v2":
        return [
            (r"backbone\.stem", r"MobilenetV2/Conv"),
            (r"backbone\.blocks\.(\d+)\.(\w+)", r"MobilenetV2/expanded_conv<_\1>/\2"),
        ]
    if name.startswith("resnet"):
        depth = name.removesuffix("_beta").removeprefix("resnet")
        scope = f"resnet_v1_{depth}"
        unit = "lite_bottleneck_v1" if depth == "18" else "bottleneck_v1"
        stem = r"conv1_<\1+1>" if name.endswith("_beta") else "conv1"
        return [
            (r"backbone\.stem\.(\d+)", f"{scope}/{stem}"),
            (r"backbone\.blocks\.(\d+)\.(\d+)\.(\w+)", rf"{scope}/block<\1+1>/unit_<\2+1>/{unit}/\3"),
        ]
    return []


def _head_rules(model: DeepLab) -> Rules:
    return [
        (r"context\.image_pooling\.project", r"image_pooling"),
        (r"context\.pointwise", r"aspp0"),
        (r"context\.atrous\.(\d+)\.(depthwise|pointwise)", r"aspp<\1+1>_\2"),
        (r"context\.atrous\.(\d+)", r"aspp<\1+1>"),
        (r"context\.projection", r"concat_projection"),
        (r"decoder\.stages\.(\d+)\.project", r"decoder/feature_projection0<_\1>"),
        *_decoder_rules(model),
        (r"classifiers\.(\w+)\.convs\.(\d+)", r"logits/\1<_\2>"),
    ]


def _decoder_rules(model: DeepLab) -> Rules:
    decoder = model.config.decoder
    stage = r"decoder\.stages\.(\d+)\.convs\.(\d+)"
    if decoder is None:
        return []
    if decoder.merge == "sum":
        return [
            (rf"{stage}\.(depthwise|pointwise)", r"decoder/decoder_split_sep_conv0<_\1>_\3"),
            (stage, r"decoder/decoder_conv0<_\1>"),
        ]
    return [
        (rf"{stage}\.(depthwise|pointwise)", r"decoder/decoder_conv\2<_\1>_\3"),
        (stage, r"decoder/decoder_conv0<_\1>/decoder_conv0<_\1>_<\2+1>"),
    ]
