"""A TensorFlow Lite file as a DeepLab: everything inferred from the graph, then checked against the model.

Backbone, width, classes, rates, output stride, resize rule and input scaling are read off what `tflite_walk` met; a
model is built from them; every convolution of it must then agree with the file's in stride, rate, padding,
activation and skips, and every stored array must have been used. Norms are folded in these files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from deeplab.backbones.mobilenet import MobileNet
from deeplab.config import (
    ASPPConfig,
    DecoderConfig,
    DeepLabConfig,
    MobileNetEdgeTPUConfig,
    MobileNetV2Config,
    NoContextConfig,
    Padding,
    PixelConfig,
    ResizeRule,
)
from deeplab.errors import UserError
from deeplab.importers.fill import fill
from deeplab.importers.hints import Hints, flag
from deeplab.importers.one_logit import with_background
from deeplab.importers.published import labels_for
from deeplab.importers.report import Imported, ImportReport
from deeplab.importers.tflite.eight_bit import eight_bit_of
from deeplab.importers.tflite.file import MALFORMED, read_tflite
from deeplab.importers.tflite.layers import CLIPS, Network, Resize
from deeplab.importers.tflite.simplify import network_of
from deeplab.importers.tflite.walk import (
    CLASSIFIER,
    LAST,
    NAMES,
    STEM,
    Family,
    Found,
    follow,
    template,
)
from deeplab.layers.activations import make_activation
from deeplab.layers.conv import AtrousConv2d, ConvNormAct
from deeplab.model.network import DeepLab
from deeplab.system.reading import sha256_of

# of published files; any other is tried as the last block's channels over those at width 1
WIDTHS = (1.0, 0.5, 0.75, 1.4, 0.35, 0.25, 1.3)
DIVISORS = (None, 8, 4, 2)
# whose activation is the bounded models' ReLU6
HEADS = ("context.pointwise", "context.projection")


def import_tflite(path: Path, hints: Hints) -> Imported:
    """The model in the TensorFlow Lite file at `path`, computing in 8 bits (`model.eight_bit`) if that does.

    Its weights are real numbers in any case: dequantised, if they are quantised.

    Args:
        hints: `threshold`, for a model of one class; the file says all else.

    Raises:
        UserError: a damaged file, a graph that is not a DeepLab this package builds (says where they part), or
            hints of what the file says itself.
    """
    needless = [flag(name) for name in hints.given() if name != "threshold"]
    if needless:
        raise UserError(f"the graph says these things itself: leave {', '.join(needless)} away", file=path)
    graph = read_tflite(path)
    sha256 = sha256_of(path)
    try:
        network = network_of(graph)
        found = follow(network)
        config = _config(network, found)
        model = DeepLab(config)
        _check(model, found)
        weights, notes = _weights(model, network, found)
        config, binary = with_background(config, hints.threshold)
        labels, names = labels_for(config.num_classes, sha256)
        model = DeepLab(config, labels)
    except UserError as error:
        raise error.within(path) from None
    except MALFORMED as error:
        # operations with too few inputs, shapes that no runtime would make
        raise UserError(
            f"its graph does not hold together ({type(error).__name__}: {error})",
            fix="download it again and compare its size or checksum",
            file=path,
        ) from error
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
        notes=(*_assumptions(network, found), *arithmetic, *notes, *binary),
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
    heads = [found.convs[path] for path in HEADS if path in found.convs]
    backbone = _backbone(found)
    return DeepLabConfig(
        backbone=backbone,
        context=_context(network, found, output_stride),
        decoder=_decoder(found),
        num_classes=len(convs[CLASSIFIER].kernel),
        output_stride=output_stride,
        resize=_resize_rule(found),
        pixels=(network.pixels or PixelConfig()).for_channels(backbone.in_channels),
        folded=True,
        bounded=any(conv.clip == CLIPS["relu6"] for conv in heads),
    )


def _padding(found: Found) -> Padding:
    allowed = [conv.paddings for path, conv in found.convs.items() if path.startswith("backbone.")]
    strided = [paddings for paddings in allowed if paddings]
    common = [rule for rule in (strided or [("same",)])[0] if all(rule in paddings for paddings in strided)]
    if not common:
        raise UserError("the backbone pads some strided convolutions SAME and others symmetrically")
    return common[0]


def _backbone(found: Found) -> MobileNetV2Config | MobileNetEdgeTPUConfig:
    channels = {path: len(conv.kernel) for path, conv in found.convs.items() if path.startswith("backbone.")}
    last = channels.pop(LAST, None)
    known = {"in_channels": found.convs[STEM].kernel.shape[1], "padding": _padding(found)}
    for config in _widths(found.family, channels):
        backbone = template(config)
        layers = {path: backbone.get_submodule(path.removeprefix("backbone.")) for path in channels}
        ours = {
            path: layer.conv.out_channels for path, layer in layers.items() if isinstance(layer, ConvNormAct)
        }
        if ours == channels:
            extra = {} if last in (None, backbone.out_channels) else {"last_channels": last}
            return config.model_copy(update={**known, **extra})
    raise UserError(
        f"no width of {NAMES[found.family]} gives the backbone's channels {list(channels.values())}"
    )


def _widths(family: Family, channels: dict[str, int]) -> Iterator[MobileNetV2Config | MobileNetEdgeTPUConfig]:
    guess = channels[list(channels)[-1]] / template(family()).blocks[-1].out_channels
    for width in (*WIDTHS, guess):
        for divisor in DIVISORS if family is MobileNetV2Config else (None,):
            yield family(width=width, divisor=divisor)


def _context(network: Network, found: Found, output_stride: int) -> ASPPConfig | NoContextConfig:
    if not found.branches:
        return NoContextConfig()
    pool, crop, stride = found.pooling, None, (1, 1)
    if pool and pool.window != network.size(found.features):
        height, width = pool.window
        crop = (height - 1) * output_stride + 1, (width - 1) * output_stride + 1
        stride = pool.stride
    return ASPPConfig(
        channels=len(found.convs["context.pointwise"].kernel),
        rates=tuple(found.rates),
        separable="context.atrous.0" not in found.convs,
        image_pooling=pool is not None,
        image_pooling_crop=crop,
        image_pooling_stride=stride,
        projection="context.projection" in found.convs,
    )


def _decoder(found: Found) -> DecoderConfig | None:
    if not found.decoder_strides:
        return None
    stage = "decoder.stages.0"
    separable = f"{stage}.convs.1" not in found.convs
    last = found.convs[f"{stage}.convs.1.pointwise" if separable else f"{stage}.convs.1"]
    return DecoderConfig(
        strides=tuple(found.decoder_strides),
        channels=len(last.kernel),
        low_level_channels=len(found.convs[f"{stage}.project"].kernel),
        separable=separable,
    )


def _resize_rule(found: Found) -> ResizeRule:
    # spreading one value over a map is the same by every rule
    rules = {resize.rule for resize in found.resizes if resize.rule}
    if len(rules) > 1:
        raise UserError(f"resizes by different rules in one file: {', '.join(sorted(rules))}")
    return rules.pop() if rules else "align_corners"


def _visible_resizes(found: Found) -> list[Resize]:
    # spreading one value over a map is the same by every rule
    return [resize for resize in found.resizes if resize.rule]


def _check(model: DeepLab, found: Found) -> None:
    modules = dict(model.named_modules())
    for path, conv in found.convs.items():
        if path not in modules:
            raise UserError(f"the model that the other layers describe has no {path}")
        module = modules[path]
        layer = module.conv if isinstance(module, ConvNormAct) else module
        assert isinstance(layer, AtrousConv2d)
        ours: dict[str, object] = {
            "stride": layer.stride[0],
            "rate": layer.dilation if conv.window != (1, 1) else conv.rate,
        }
        theirs: dict[str, object] = {"stride": conv.stride, "rate": conv.rate}
        if conv.paddings and layer.padding_rule not in conv.paddings:
            ours["padding"], theirs["padding"] = layer.padding_rule, " or ".join(conv.paddings)
        if isinstance(module, ConvNormAct):
            alike = [type(make_activation(kind)).__name__ for kind in CLIPS if conv.acts_as(kind)]
            ours["activation"] = type(module.activation).__name__
            theirs["activation"] = ours["activation"] if ours["activation"] in alike else " or ".join(alike)
        if ours != theirs:
            raise UserError(
                f"{path} (operation {conv.op}) has {theirs} in the file; the reference has {ours}"
            )
    assert isinstance(model.backbone, MobileNet)
    skips = [block.skip for block in model.backbone.blocks]
    if skips != found.skips:
        raise UserError(f"skip connections of the file are {found.skips}; the reference has {skips}")


def _variables(found: Found) -> Counter[int]:
    return Counter(number for conv in found.convs.values() for number in conv.stored)


def _weights(
    model: DeepLab, network: Network, found: Found
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    used = _variables(found)
    stored = {number for number, tensor in enumerate(network.tensors) if tensor.data is not None}
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
        weights[f"{key}.weight"] = torch.from_numpy(np.ascontiguousarray(conv.kernel))
        weights[f"{key}.bias"] = torch.from_numpy(conv.bias.copy())
        if len(conv.stored) == 1 and not conv.bias.any():
            notes.append(f"{path} has no bias in the file: filled with zeros")
    return weights, tuple(notes)


def _facts(network: Network, found: Found, config: DeepLabConfig) -> dict[str, str]:
    backbone, context, decoder, pixels = config.backbone, config.context, config.decoder, config.pixels
    assert isinstance(backbone, MobileNetV2Config | MobileNetEdgeTPUConfig)
    height, width = network.size(network.source)
    rates = f", rates {', '.join(map(str, config.rates))}" if config.rates else ", no atrous rates"
    divisor = f", divisor {backbone.divisor}" if backbone.divisor else ""
    head = "none"
    if isinstance(context, ASPPConfig):
        head = f"{' + '.join(found.branches)}{rates}; {context.channels} channels"
        head += "" if context.projection else ", not projected"
    return {
        "network": f"DeepLabv3{'+' if decoder else ''} on {NAMES[found.family]}",
        "width": f"{backbone.width:g}{divisor}",
        "classes": str(config.num_classes),
        "context": head,
        "decoder": f"strides {decoder.strides}, low level {decoder.low_level_channels}"
        if decoder
        else "none",
        "output stride": str(config.output_stride),
        "resize rule": config.resize,
        "padding": backbone.padding,
        "input": f"{height}x{width}, (pixel - {pixels.mean[0]:g}) / {pixels.std[0]:g}",
        "output": " then ".join(["logits", *found.tail]).lower(),
    }


def _storage(network: Network, found: Found) -> str:
    tensors = [network.tensor(conv.stored[0]) for conv in found.convs.values()]
    kinds = "/".join(sorted({tensor.dtype for tensor in tensors}))
    scales = [len(tensor.quantisation.scale) for tensor in tensors if tensor.quantisation]
    if not scales:
        return f"{kinds} weights"
    return f"{kinds} weights per {'channel' if max(scales) > 1 else 'tensor'}, dequantised"


def _assumptions(network: Network, found: Found) -> list[str]:
    notes = [
        "norms are folded into the convolutions; training puts them back where the recipe's model has them"
    ]
    if network.pixels is None:
        notes.append(
            "the file does not say how its input is scaled: the reference's pixel / 127.5 - 1 is used"
        )
    if not _visible_resizes(found):
        notes.append("nothing in the file shows the resize rule: align_corners, the reference's, is used")
    if found.late:
        notes.append(
            f"the file resizes what {found.tail[0].lower()} makes of the logits, this model the logits: labels along "
            "borders may differ"
        )
    return notes


def _take_arithmetic(model: DeepLab, network: Network, found: Found) -> tuple[str, ...]:
    if network.tensor(found.features).quantisation is None:
        return ()
    try:
        if model.config.sigmoid is not None:
            raise UserError("it has one class")
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
