"""A TensorFlow Lite file as a DeepLab: everything inferred from the graph, then checked against the model.

Width, classes, rates, output stride, resize rule and input scaling are read off what `tflite_walk` met; a
model is built from them; every convolution of it must then agree with the file's in stride, rate, padding,
activation and skips, and every stored array must have been used. Norms are folded in these files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from deeplab.backbones.mobilenet_v2 import STAGES, MobileNetV2, channels_at
from deeplab.config import (
    ASPPConfig,
    DecoderConfig,
    DeepLabConfig,
    MobileNetV2Config,
    NoContextConfig,
    PixelConfig,
    ResizeRule,
)
from deeplab.errors import UserError
from deeplab.importers.fill import fill
from deeplab.importers.published import labels_for
from deeplab.importers.report import Imported, ImportReport
from deeplab.importers.tflite.eight_bit import eight_bit_of
from deeplab.importers.tflite.file import read_tflite
from deeplab.importers.tflite.layers import Conv, Network, Resize, network_of
from deeplab.importers.tflite.walk import CLASSIFIER, Found, follow
from deeplab.layers.activations import make_activation
from deeplab.layers.conv import AtrousConv2d, ConvNormAct
from deeplab.model.network import DeepLab

# of published MobileNetV2 files; any other is tried as last channels / 320
WIDTHS = (1.0, 0.5, 0.75, 1.4, 0.35, 0.25, 1.3)
DIVISORS = (None, 8, 4, 2)


def import_tflite(path: Path) -> Imported:
    """The model in the TensorFlow Lite file at `path`, computing in 8 bits (`model.eight_bit`) if that does.

    Its weights are real numbers in any case: dequantised, if they are quantised.

    Raises:
        UserError: a damaged file, or a graph that is not a DeepLab this package builds; says where they part.
    """
    graph = read_tflite(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        network = network_of(graph)
        found = follow(network)
        config = _config(network, found)
        labels, names = labels_for(config.num_classes, sha256)
        model = DeepLab(config, labels)
        _check(model, found)
        weights, notes = _weights(model, network, found)
    except UserError as error:
        raise error.within(path) from None
    fill(model, weights, source=str(path))
    arithmetic = _take_arithmetic(model, network, found)
    report = ImportReport(
        source=path.name,
        sha256=sha256,
        format=f"TensorFlow Lite, {_storage(network, found)}; {graph.description}".rstrip("; "),
        variables=len(_variables(found)),
        parameters=len(weights),
        values=sum(value.numel() for value in weights.values()),
        facts=_facts(network, found, config) | {"class names": names},
        notes=(*_assumptions(network, found), *arithmetic, *notes),
    )
    model.provenance = {"import": report.to_json()}
    return Imported(model.eval(), report)


def _config(network: Network, found: Found) -> DeepLabConfig:
    convs = found.convs
    strides = [convs[path].stride for path in convs if path.startswith("backbone.")]
    output_stride = int(np.prod(strides))
    if output_stride not in (4, 8, 16, 32):
        raise UserError(
            f"the backbone's strides multiply to {output_stride}; known output strides: 4, 8, 16, 32"
        )
    paddings = {conv.padding for path, conv in convs.items() if path.startswith("backbone.")} - {None}
    if len(paddings) > 1:
        raise UserError("the backbone pads some strided convolutions SAME and others symmetrically")
    width, divisor = _width(network, found)
    heads = [
        conv.activation for path, conv in convs.items() if path in ("context.pointwise", "context.projection")
    ]
    return DeepLabConfig(
        backbone=MobileNetV2Config(
            in_channels=network.tensor(convs["backbone.stem"].weight).shape[3],
            width=width,
            divisor=divisor,
            padding=paddings.pop() if paddings else "same",
        ),
        context=_context(network, found, output_stride),
        decoder=_decoder(network, found),
        num_classes=_channels(network, convs[CLASSIFIER]),
        output_stride=output_stride,
        resize=_resize_rule(network, found),
        pixels=network.pixels or PixelConfig(),
        folded=True,
        bounded="relu6" in heads,
    )


def _channels(network: Network, conv: Conv) -> int:
    return network.tensor(conv.weight).shape[3 if conv.depthwise else 0]


def _width(network: Network, found: Found) -> tuple[float, int | None]:
    linear = [conv for path, conv in found.convs.items() if path.endswith(".project") and "blocks" in path]
    seen = [_channels(network, conv) for conv in (found.convs["backbone.stem"], *linear)]
    bases = [32, *(channels for _, channels, repeats, _ in STAGES for _ in range(repeats))]
    for width in (*WIDTHS, seen[-1] / bases[-1]):
        for divisor in DIVISORS:
            if seen == [channels_at(base, width, divisor) for base in bases]:
                return width, divisor
    raise UserError(f"no width gives the backbone's channels {seen}; at width 1 they are {bases}")


def _context(network: Network, found: Found, output_stride: int) -> ASPPConfig | NoContextConfig:
    if not found.branches:
        return NoContextConfig()
    pool, crop, stride = found.pooling, None, (1, 1)
    if pool and pool.window != network.size(found.features):
        crop = tuple((side - 1) * output_stride + 1 for side in pool.window)
        stride = pool.stride
    return ASPPConfig(
        channels=_channels(network, found.convs["context.pointwise"]),
        rates=tuple(found.rates),
        separable="context.atrous.0" not in found.convs,
        image_pooling=pool is not None,
        image_pooling_crop=crop,
        image_pooling_stride=stride,
        projection="context.projection" in found.convs,
    )


def _decoder(network: Network, found: Found) -> DecoderConfig | None:
    if not found.decoder_strides:
        return None
    stage = "decoder.stages.0"
    separable = f"{stage}.convs.1" not in found.convs
    last = found.convs[f"{stage}.convs.1.pointwise" if separable else f"{stage}.convs.1"]
    return DecoderConfig(
        strides=tuple(found.decoder_strides),
        channels=_channels(network, last),
        low_level_channels=_channels(network, found.convs[f"{stage}.project"]),
        separable=separable,
    )


def _resize_rule(network: Network, found: Found) -> ResizeRule:
    rules = {resize.rule for resize in _visible_resizes(network, found)}
    if len(rules) > 1:
        raise UserError(f"resizes by different rules in one file: {', '.join(sorted(rules))}")
    return rules.pop() if rules else "align_corners"


def _visible_resizes(network: Network, found: Found) -> list[Resize]:
    # spreading one value over a map is the same by every rule
    return [resize for resize in found.resizes if network.size(resize.sources[0]) != (1, 1)]


def _check(model: DeepLab, found: Found) -> None:
    modules = dict(model.named_modules())
    for path, conv in found.convs.items():
        if path not in modules:
            raise UserError(f"the model that the other layers describe has no {path}")
        module = modules[path]
        layer = module.conv if isinstance(module, ConvNormAct) else module
        assert isinstance(layer, AtrousConv2d)
        ours = {
            "stride": layer.stride[0],
            "rate": layer.dilation if conv.kernel != (1, 1) else conv.rate,
            "padding": layer.padding_rule if conv.padding else None,
        }
        theirs = {"stride": conv.stride, "rate": conv.rate, "padding": conv.padding}
        if isinstance(module, ConvNormAct):
            ours["activation"] = type(module.activation).__name__
            theirs["activation"] = type(make_activation(conv.activation)).__name__
        if ours != theirs:
            raise UserError(
                f"{path} (operation {conv.op}) has {theirs} in the file; the reference has {ours}"
            )
    assert isinstance(model.backbone, MobileNetV2)
    skips = [block.skip for block in model.backbone.blocks]
    if skips != found.skips:
        raise UserError(f"skip connections of the file are {found.skips}; the reference has {skips}")


def _variables(found: Found) -> Counter[int]:
    return Counter(
        number for conv in found.convs.values() for number in (conv.weight, conv.bias) if number >= 0
    )


def _weights(
    model: DeepLab, network: Network, found: Found
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    used = _variables(found)
    stored = {number for number, tensor in enumerate(network.graph.tensors) if tensor.data is not None}
    idle = sorted(stored - set(used) - network.structure)
    if idle:
        names = ", ".join(network.tensor(number).name for number in idle[:3])
        raise UserError(f"{len(idle)} stored arrays belong to no layer, such as {names}")
    notes = [
        f"{network.tensor(number).name} serves {count} layers" for number, count in used.items() if count > 1
    ]
    weights = {}
    for path, conv in found.convs.items():
        key = f"{path}.conv" if isinstance(model.get_submodule(path), ConvNormAct) else path
        kernel = network.tensor(conv.weight).real()
        # [out, kh, kw, in] and depthwise [1, kh, kw, out] -> [out, in, kh, kw]
        kernel = kernel.transpose((3, 0, 1, 2) if conv.depthwise else (0, 3, 1, 2))
        weights[f"{key}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel))
        if conv.bias < 0:
            notes.append(f"{path} has no bias in the file: filled with zeros")
            weights[f"{key}.bias"] = torch.zeros(len(kernel))
        else:
            weights[f"{key}.bias"] = torch.from_numpy(network.tensor(conv.bias).real().copy())
    return weights, tuple(notes)


def _facts(network: Network, found: Found, config: DeepLabConfig) -> dict[str, str]:
    context, decoder, pixels = config.context, config.decoder, config.pixels
    height, width = network.size(network.source)
    rates = f", rates {', '.join(map(str, config.rates))}" if config.rates else ", no atrous rates"
    divisor = f", divisor {config.backbone.divisor}" if config.backbone.divisor else ""
    head = "none"
    if isinstance(context, ASPPConfig):
        head = f"{' + '.join(found.branches)}{rates}; {context.channels} channels"
        head += "" if context.projection else ", not projected"
    return {
        "network": f"DeepLabv3{'+' if decoder else ''} on MobileNetV2",
        "width": f"{config.backbone.width:g}{divisor}",
        "classes": str(config.num_classes),
        "context": head,
        "decoder": f"strides {decoder.strides}, low level {decoder.low_level_channels}"
        if decoder
        else "none",
        "output stride": str(config.output_stride),
        "resize rule": config.resize,
        "padding": config.backbone.padding,
        "input": f"{height}x{width}, (pixel - {pixels.mean[0]:g}) / {pixels.std[0]:g}",
        "output": " then ".join(["logits", *found.tail]).lower(),
    }


def _storage(network: Network, found: Found) -> str:
    tensors = [network.tensor(conv.weight) for conv in found.convs.values()]
    kinds = "/".join(sorted({tensor.dtype for tensor in tensors}))
    scales = [len(tensor.quantisation.scale) for tensor in tensors if tensor.quantisation]
    if not scales:
        return f"{kinds} weights"
    return f"{kinds} weights per {'channel' if max(scales) > 1 else 'tensor'}, dequantised"


def _assumptions(network: Network, found: Found) -> list[str]:
    notes = ["norms are folded into the convolutions: fit for inference, not for training with batch norm"]
    if network.pixels is None:
        notes.append(
            "the file does not say how its input is scaled: the reference's pixel / 127.5 - 1 is used"
        )
    if not _visible_resizes(network, found):
        notes.append("nothing in the file shows the resize rule: align_corners, the reference's, is used")
    return notes


def _take_arithmetic(model: DeepLab, network: Network, found: Found) -> tuple[str, ...]:
    if network.tensor(found.features).quantisation is None:
        return ()
    try:
        model.eight_bit_tables = eight_bit_of(network, found)
    except UserError as reason:
        return (
            f"the file computes in 8 bits, in a way that is not followed here ({reason}): this model computes in "
            "floating point, and its labels differ from the file's own",
        )
    model.eight_bit = True
    return (
        "computes in 8 bits as the file does; model.eight_bit = False computes in floating point, faster, with "
        "other labels where classes are nearly equal",
    )
