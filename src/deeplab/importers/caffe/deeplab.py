"""A Caffe model as a DeepLab: its layers' weights into the network they are of, checked against its windows.

Every layer with weights must have its place in the network, and every stride, rate and padding that the file
states must be the model's. Files of classification networks give a backbone with a new head.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from deeplab.backbones.vgg import VGG16
from deeplab.errors import UserError
from deeplab.importers.caffe.file import Window, read_caffemodel
from deeplab.importers.caffe.networks import CLASSIFIER, Plan, Source, plan_network, without_copies
from deeplab.importers.hints import Hints, flag
from deeplab.importers.new_head import NOTE, fill_except
from deeplab.importers.published import labels_for
from deeplab.importers.report import Imported, ImportReport
from deeplab.layers.conv import AtrousConv2d
from deeplab.system.reading import sha256_of

SHOWN = 5


def import_caffe(path: Path, hints: Hints) -> Imported:
    """The model in the .caffemodel at `path`.

    Args:
        path: a file with the layers of a whole network.
        hints: `rates`, for a file that keeps no windows; those that Caffe saves do.

    Raises:
        UserError: a damaged file, layers that are no VGG-16 or ResNet of v1 or v2 (says where they part), or
            hints of what the file says itself.
    """
    layers = read_caffemodel(path)
    sha256 = sha256_of(path)
    try:
        source = without_copies(layers, rates=hints.rates, sha256=sha256)
        _check_hints(source, hints)
        plan = plan_network(source)
        used = _used(source, plan)
        unused = [name for name, layer in source.layers.items() if layer.blobs and name not in used]
        if not plan.is_backbone:
            _check_all_used(unused)
            _check_windows(source, plan)
        weights = _weights(source, plan)
    except UserError as error:
        raise error.within(path) from None
    new = fill_except(plan.model, weights, new=plan.new, source=str(path))
    report = ImportReport(
        source=path.name,
        sha256=sha256,
        format="Caffe model",
        variables=sum(len(source.layers[name].blobs) for name in used),
        parameters=len(weights),
        values=sum(value.numel() for value in weights.values()),
        facts=_facts(source, plan),
        notes=_notes(source, plan),
        unused=sum(len(source.layers[name].blobs) for name in unused),
        new=new,
    )
    plan.model.provenance = {"import": report.to_json()}
    return Imported(plan.model.eval(), report)


def _check_hints(source: Source, hints: Hints) -> None:
    has_windows = any(layer.window for layer in source.layers.values())
    needless = [name for name in hints.given() if name != "rates" or has_windows]
    if needless:
        raise UserError(
            f"a Caffe model says these things itself: leave {', '.join(map(flag, needless))} away"
        )


def _used(source: Source, plan: Plan) -> list[str]:
    convs = [name for names in plan.convs.values() for name in names]
    norms = [f"{kind}{name}" for name in plan.norms.values() for kind in ("bn", "scale")]
    missing = [
        name for name in (*convs, *norms) if name not in source.layers or not source.layers[name].blobs
    ]
    if missing:
        raise UserError(f"no weights for {', '.join(missing[:SHOWN])}, which this network has")
    return [*convs, *norms]


def _check_all_used(unused: list[str]) -> None:
    if unused:
        raise UserError(f"{', '.join(unused[:SHOWN])} have weights, and no place in a DeepLab of v1 or v2")


def _check_windows(source: Source, plan: Plan) -> None:
    for path, names in plan.convs.items():
        conv = plan.model.get_submodule(path)
        assert isinstance(conv, AtrousConv2d)
        kernel, rate = conv.kernel_size[0], conv.dilation[0]
        strides = {conv.stride[0]}
        if path.startswith("multi_scale."):
            # trained at the output stride; the test network's are 1, and its scores are upsampled
            strides.add(1)
        windows = [Window(kernel, stride, rate * (kernel - 1) // 2, rate) for stride in strides]
        for name in names:
            _compare(source, name, windows)
    if isinstance(plan.model.backbone, VGG16):
        for number, pool in enumerate(plan.model.backbone.pools, 1):
            _compare(source, f"pool{number}", [Window(3, pool.stride, 1)])
        _compare(source, "pool5a", [Window(3, 1, 1, mean=True)])
    else:
        _compare(source, "pool1", [Window(3, 2, 1)])


def _compare(source: Source, name: str, allowed: list[Window]) -> None:
    layer = source.layers.get(name)
    if layer is None or layer.window is None:
        return
    # the rate of a 1x1 says nothing
    found = layer.window._replace(rate=allowed[0].rate) if layer.window.kernel == 1 else layer.window
    if found not in allowed:
        there = _in_words(allowed[0])
        raise UserError(f"{name} is {_in_words(found)}; a DeepLab of this kind has {there} there")


def _in_words(window: Window) -> str:
    kind = "a mean over" if window.mean else "a window of"
    kernel, stride, pad, rate, _ = window
    return f"{kind} {kernel}x{kernel}, stride {stride}, padding {pad}, rate {rate}"


def _weights(source: Source, plan: Plan) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for path, names in plan.convs.items():
        blobs = [source.layers[name].blobs for name in names]
        weights[f"{path}.weight"] = torch.cat([_tensor(found[0]) for found in blobs], 1)
        # branches that Caffe sums: one bias, the sum
        bias = sum((_tensor(found[1]).flatten() for found in blobs if len(found) > 1), torch.zeros(()))
        norm = path.removesuffix(".conv") + ".norm"
        if norm in plan.norms:
            weights |= _norm(source, norm, name=plan.norms[norm], bias=bias)
        else:
            weights[f"{path}.bias"] = bias
    return weights


def _norm(source: Source, path: str, *, name: str, bias: torch.Tensor) -> dict[str, torch.Tensor]:
    """BatchNorm's mean and variance, kept times a number that its third blob has, and Scale's factors.

    A bias of the convolution before it moves the mean.
    """
    statistics, factors = source.layers[f"bn{name}"].blobs, source.layers[f"scale{name}"].blobs
    if len(statistics) != 3 or len(factors) != 2:
        raise UserError(
            f"bn{name} has {len(statistics)} blobs and scale{name} {len(factors)}; they have 3 and 2"
        )
    mean, variance, times = (_tensor(blob).flatten() for blob in statistics)
    times = 1 / times if times.item() else times
    gamma, beta = (_tensor(blob).flatten() for blob in factors)
    return {
        f"{path}.weight": gamma,
        f"{path}.bias": beta,
        f"{path}.running_mean": mean * times - bias,
        f"{path}.running_var": variance * times,
    }


def _tensor(blob: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(blob))


def _facts(source: Source, plan: Plan) -> dict[str, str]:
    config = plan.model.config
    facts = {
        "network": config.backbone.name,
        "pixels": f"BGR minus {', '.join(map(str, config.pixels.mean))}",
    }
    if plan.is_backbone:
        return facts
    rates = config.rates
    return facts | {
        "classes": str(config.num_classes),
        "class names": labels_for(config.num_classes, source.sha256)[1],
        "output stride": str(config.output_stride),
        "rates": ", ".join(map(str, rates)) or "none",
        "image pyramid": ", ".join(map(str, config.image_pyramid)),
    }


def _notes(source: Source, plan: Plan) -> tuple[str, ...]:
    notes = []
    if plan.is_backbone:
        notes.append(NOTE)
    elif plan.new:
        notes.append("no classifier in the file: it is new and random; train the model before use")
    if len(plan.convs.get(f"{CLASSIFIER}.0", ())) > 1:
        notes.append("the branches' classifiers, which Caffe sums, are one over the concatenated branches")
    if plan.model.config.multi_scale_features:
        notes.append("the multi-scale branches work at the output stride, as in training")
    if len(source.scales) > 1:
        notes.append("layers for smaller images share the weights of the full size and were not read")
    if not any(layer.window for layer in source.layers.values()):
        notes.append("the file states no strides and rates: those of the released models were taken")
    return tuple(notes)
