"""Which TensorFlow variable holds which of our weights (reference facts 4.2 and 4.3).

Every convolution of ours lives in a scope of the reference; what is inside a scope follows from the
layer: `weights` or `depthwise_weights`, `biases`, and `BatchNorm/{gamma,beta,moving_mean,moving_variance}`.
The NAS networks have a scope of their own for each norm, and one scope for both halves of a separable
convolution; there a rule gives the norm's scope (of the path + '.norm') or the whole name of the weights.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import torch

from deeplab.config import DeepLabConfig
from deeplab.layers.conv import AtrousConv2d, ConvNormAct
from deeplab.model.network import DeepLab

NORM_VARIABLES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


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
            norm_scope = _find_scope(f"{path}.norm", rules) or f"{scope}/BatchNorm"
            variables |= _conv_variables(f"{path}.conv", module.conv, scope)
            for ours in module.norm.state_dict():
                if ours in NORM_VARIABLES:
                    shape = tuple(module.norm.state_dict()[ours].shape)
                    variables[f"{path}.norm.{ours}"] = Variable(f"{norm_scope}/{NORM_VARIABLES[ours]}", shape)
        elif isinstance(module, AtrousConv2d) and not path.endswith(".conv"):
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
    leaf = "depthwise_weights" if depthwise else "weights"
    name = scope if scope.endswith("_weights") else f"{scope}/{leaf}"
    weight = Variable(name, (height, width, out, inner) if depthwise else (height, width, inner, out))
    variables = {f"{path}.weight": weight}
    if conv.bias is not None:
        variables[f"{path}.bias"] = Variable(f"{scope}/biases", (out,))
    return variables


Rules = list[tuple[str, str]]


def _scope(path: str, rules: Rules) -> str:
    scope = _find_scope(path, rules)
    if scope is None:
        raise ValueError(f"no TensorFlow scope is known for the layer {path}")
    return scope


def _find_scope(path: str, rules: Rules) -> str | None:
    for pattern, template in rules:
        match = re.fullmatch(pattern, path)
        if match:
            return _evaluate(match.expand(template))
    return None


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
    if name.startswith(("mobilenet_v3", "mobilenet_edgetpu")):
        scope = "MobilenetV3" if name.startswith("mobilenet_v3") else "MobilenetEdgeTPU"
        block = rf"{scope}/expanded_conv<_\1>"
        return [
            (r"backbone\.stem", f"{scope}/Conv"),
            (r"backbone\.blocks\.(\d+)\.squeeze_excite\.reduce", f"{block}/squeeze_excite/Conv"),
            (r"backbone\.blocks\.(\d+)\.squeeze_excite\.expand", f"{block}/squeeze_excite/Conv_1"),
            (r"backbone\.blocks\.(\d+)\.(\w+)", rf"{block}/\2"),
            (r"backbone\.last", f"{scope}/Conv_1"),
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
    if name.startswith("xception"):
        return _xception_rules(f"xception_{name.removeprefix('xception')}")
    if name in ("pnasnet", "hnasnet"):
        return _nas_rules(name)
    return []


def _xception_rules(scope: str) -> Rules:
    rules = [(r"backbone\.stem\.(\d)", rf"{scope}/entry_flow/conv1_<\1+1>")]
    modules = [
        (r"backbone\.(entry|exit)\.(\d)", rf"{scope}/\1_flow/block<\2+1>/unit_1/xception_module"),
        (r"backbone\.(middle)\.(\d+)", rf"{scope}/\1_flow/block1/unit_<\2+1>/xception_module"),
    ]
    for path, module in modules:
        rules.append((rf"{path}\.convs\.(\d)\.(\w+)", rf"{module}/separable_conv<\3+1>_\4"))
        rules.append((rf"{path}\.(shortcut)", rf"{module}/\3"))
    return rules


def _nas_rules(scope: str) -> Rules:
    cell = r"backbone\.cells\.(\d+)"
    edge, edge_scope = rf"{cell}\.(left|right)\.(\d)", rf"{scope}/cell_\1/comb_iter_\3/\2"
    return [
        (r"backbone\.stem\.(\d)", rf"{scope}/conv\1"),
        (r"backbone\.stem\.(\d)\.norm", rf"{scope}/conv\1_bn"),
        (rf"{cell}\.current", rf"{scope}/cell_\1/1x1"),
        (rf"{cell}\.current\.norm", rf"{scope}/cell_\1/beginning_bn"),
        (rf"{cell}\.earlier", rf"{scope}/cell_\1/prev_1x1"),
        (rf"{cell}\.earlier\.norm", rf"{scope}/cell_\1/prev_bn"),
        (rf"{edge}\.(separable_\w+)\.(depthwise|pointwise)", rf"{edge_scope}/\4/\5_weights"),
        (rf"{edge}\.separable_(\w+)\.pointwise\.norm", rf"{edge_scope}/bn_sep_\4"),
        (rf"{edge}\.(atrous_\w+|1x1)\.project", rf"{edge_scope}/\4"),
        (rf"{edge}\.atrous_(\w+)\.project\.norm", rf"{edge_scope}/bn_atr_\4"),
        (rf"{edge}\.1x1\.project\.norm", rf"{edge_scope}/bn_1"),
        (r"backbone\.head\.downsample\.(\w+)", rf"{scope}/downsample_\1_conv"),
        (r"backbone\.head\.downsample\.(\w+)\.norm", rf"{scope}/downsample_\1_bn"),
        (r"backbone\.head\.expand", rf"{scope}/classification_head_conv"),
        (r"backbone\.head\.expand\.norm", rf"{scope}/classification_head_bn"),
    ]


def _head_rules(model: DeepLab) -> Rules:
    cell = "meta_architecture/" if model.config.context.kind == "dpc" else ""
    return [
        (r"context\.image_pooling\.project", r"image_pooling"),
        (r"context\.pointwise", r"aspp0"),
        (r"context\.atrous\.(\d+)\.(depthwise|pointwise)", r"aspp<\1+1>_\2"),
        (r"context\.atrous\.(\d+)", r"aspp<\1+1>"),
        (r"context\.projection", f"{cell}concat_projection"),
        (r"context\.branches\.(\d+)\.(depthwise|pointwise)", rf"{cell}branch\1_\2"),
        (r"context\.branches\.(\d+)(\.project)?", rf"{cell}branch\1"),
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
