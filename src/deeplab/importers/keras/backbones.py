"""Keras Applications' VGG-16, Xception and MobileNetV2 as backbones of models with a new head.

Layers are found by Keras's names; where a file has none, or numbers some by class, by their order. The arrays
are transposed to PyTorch's layout. What belongs to the weights: Keras's VGG-16 reads BGR photos minus their
mean, the other two pixels from -1 to 1; batch norms have an epsilon of 1e-3; padding is TensorFlow's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from deeplab.backbones.mobilenet_v2 import STAGES as BOTTLENECKS
from deeplab.backbones.vgg import STAGES
from deeplab.backbones.xception_original import MODULES, TAIL
from deeplab.config import (
    BackboneConfig,
    MobileNetV2Config,
    NormConfig,
    OriginalXceptionConfig,
    PixelConfig,
    VGG16Config,
)
from deeplab.errors import UserError
from deeplab.importers.keras.file import KerasLayer, read_keras
from deeplab.importers.new_head import NOTE, fill_except, new_head
from deeplab.importers.report import Imported, ImportReport
from deeplab.layers.inverted_residual import round_channels
from deeplab.system.reading import sha256_of

VGG_PIXELS = PixelConfig(mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), channels="bgr")
# of Keras's own files; any other is tried as last channels / 320
WIDTHS = (1.0, 0.35, 0.5, 0.75, 1.3, 1.4)
# conv2d, conv2d_3; Keras 1: convolution2d_3, batchnormalization_3
NUMBERED = re.compile(r"((separable_|depthwise_)?conv2d|convolution2d|batch_?normalization)(_\d+)?")
NORM_ARRAYS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


class Slot(NamedTuple):
    """A layer of Keras's network: its class, its name ('' if numbered), our paths of its arrays."""

    kind: str
    name: str
    paths: tuple[str, ...]


def import_keras(path: Path) -> Imported:
    """The backbone in the Keras file at `path`, in a model with a new, untrained head.

    Raises:
        UserError: the extra `keras` is not installed, a damaged file, or another network than the three.
    """
    layers = read_keras(path)
    sha256 = sha256_of(path)
    try:
        backbone, pixels, slots = _network(layers)
        used = _match(layers, slots)
    except UserError as error:
        raise error.within(path) from None
    weights = {
        key: value
        for slot, layer in zip(slots, used, strict=True)
        for key, value in _tensors(slot, layer).items()
    }
    model = new_head(backbone, pixels=pixels)
    new = fill_except(model, weights, new=("context.", "decoder.", "classifiers."), source=str(path))
    arrays = sum(len(layer.arrays) for layer in used)
    report = ImportReport(
        source=path.name,
        sha256=sha256,
        format="Keras weights",
        variables=arrays,
        parameters=len(weights),
        values=sum(value.numel() for value in weights.values()),
        facts={
            "network": f"{backbone.name} of Keras Applications",
            **({"width": str(backbone.width)} if isinstance(backbone, MobileNetV2Config) else {}),
            "pixels": f"{pixels.channels.upper()} minus {pixels.mean}, over {pixels.std}",
        },
        notes=(NOTE,),
        unused=sum(len(layer.arrays) for layer in layers) - arrays,
        new=new,
    )
    model.provenance = {"import": report.to_json()}
    return Imported(model.eval(), report)


def _network(layers: Sequence[KerasLayer]) -> tuple[BackboneConfig, PixelConfig, list[Slot]]:
    kinds = [layer.kind for layer in layers]
    names = {layer.name for layer in layers}
    plain = kinds.count("conv2d") == 13 and "batch_normalization" not in kinds
    if "separable_conv2d" in kinds:
        norm = NormConfig(eps=1e-3, momentum=0.01)
        return OriginalXceptionConfig(norm=norm), PixelConfig(), _xception_slots()
    if "depthwise_conv2d" in kinds or "expanded_conv_depthwise" in names:
        norm = NormConfig(eps=1e-3, momentum=0.001)
        backbone = MobileNetV2Config(width=_width(layers), divisor=8, min_channels=8, norm=norm)
        return backbone, PixelConfig(), _mobilenet_v2_slots()
    if plain or ("block5_conv3" in names and "block5_conv4" not in names):
        return VGG16Config(), VGG_PIXELS, _vgg_slots()
    first = ", ".join(layer.name for layer in layers[:4])
    raise UserError(
        f"its layers ({first}, ...) are those of another network",
        allowed="VGG16, Xception and MobileNetV2 of Keras Applications",
    )


def _vgg_slots() -> list[Slot]:
    return [
        Slot("conv2d", f"block{stage + 1}_conv{index + 1}", (f"backbone.stages.{stage}.{index}.conv",))
        for stage, (_, count) in enumerate(STAGES)
        for index in range(count)
    ]


def _xception_slots() -> list[Slot]:
    slots = []
    for index in range(2):
        slots += _conv_and_norm("conv2d", f"block1_conv{index + 1}", "_bn", f"backbone.stem.{index}")
    for stage, widths in enumerate(MODULES):
        for index in range(len(widths)):
            name, path = f"block{stage + 2}_sepconv{index + 1}", f"backbone.stages.{stage}.convs.{index}"
            slots += _separable_and_norm(name, path)
        if len(widths) == 2:
            slots += _conv_and_norm("conv2d", "", "", f"backbone.stages.{stage}.shortcut")
    for index in range(len(TAIL)):
        slots += _separable_and_norm(f"block{len(MODULES) + 2}_sepconv{index + 1}", f"backbone.tail.{index}")
    return slots


def _mobilenet_v2_slots() -> list[Slot]:
    slots = _conv_and_norm("conv2d", "Conv1", "", "backbone.stem")
    # alone among the norms, the first has its name before the layer's
    slots[1] = slots[1]._replace(name="bn_Conv1")
    for block in range(sum(repeats for _, _, repeats, _ in BOTTLENECKS)):
        prefix, path = f"block_{block}" if block else "expanded_conv", f"backbone.blocks.{block}"
        if block:
            slots += _conv_and_norm("conv2d", f"{prefix}_expand", "_BN", f"{path}.expand")
        slots += _conv_and_norm("depthwise_conv2d", f"{prefix}_depthwise", "_BN", f"{path}.depthwise")
        slots += _conv_and_norm("conv2d", f"{prefix}_project", "_BN", f"{path}.project")
    return slots


def _conv_and_norm(kind: str, name: str, suffix: str, path: str) -> list[Slot]:
    return [
        Slot(kind, name, (f"{path}.conv",)),
        Slot("batch_normalization", f"{name}{suffix}", (f"{path}.norm",)),
    ]


def _separable_and_norm(name: str, path: str) -> list[Slot]:
    return [
        Slot("separable_conv2d", name, (f"{path}.depthwise", f"{path}.pointwise.conv")),
        Slot("batch_normalization", f"{name}_bn", (f"{path}.pointwise.norm",)),
    ]


def _width(layers: Sequence[KerasLayer]) -> float:
    """The width whose first and last narrow channels the file has."""
    channels = [layer.arrays["kernel"].shape[3] for layer in layers if layer.kind == "conv2d"]
    # the first convolution, and an expansion (but in block 0) and a projection in each block
    count = 2 * sum(repeats for _, _, repeats, _ in BOTTLENECKS)
    if len(channels) < count:
        raise UserError(f"{len(channels)} convolutions; MobileNetV2 has {count} in its blocks")
    found = channels[0], channels[count - 1]
    for width in (*WIDTHS, found[1] / 320):
        if found == (round_channels(32 * width, 8), round_channels(320 * width, 8)):
            return width
    raise UserError(f"no width gives {found[0]} channels at the beginning and {found[1]} at the end")


def _match(layers: Sequence[KerasLayer], slots: Sequence[Slot]) -> list[KerasLayer]:
    """The layer of each slot: by name, else the next that Keras numbered, of its class."""
    names = {slot.name for slot in slots if slot.name}
    by_name = {layer.name: layer for layer in layers if layer.name in names}
    numbered = [layer for layer in layers if NUMBERED.fullmatch(layer.name)]
    found = []
    for slot in slots:
        layer = by_name.get(slot.name)
        if layer is None and (not slot.name or not by_name):
            layer = next((layer for layer in numbered if layer.kind == slot.kind), None)
        if layer is None:
            raise UserError(f"no layer {slot.name or 'of class ' + slot.kind}: the network is not whole")
        if layer.name not in by_name:
            numbered.remove(layer)
        found.append(layer)
    return found


def _tensors(slot: Slot, layer: KerasLayer) -> dict[str, torch.Tensor]:
    arrays = layer.arrays
    if slot.kind == "batch_normalization":
        return {f"{slot.paths[0]}.{leaf}": _tensor(arrays, name) for leaf, name in NORM_ARRAYS.items()}
    tensors = {f"{slot.paths[-1]}.bias": _tensor(arrays, "bias")} if "bias" in arrays else {}
    if slot.kind == "conv2d":
        tensors[f"{slot.paths[0]}.weight"] = _tensor(arrays, "kernel").permute(3, 2, 0, 1)
        return tensors
    # Keras 3 calls a depthwise layer's array a kernel; [h, w, channels, 1]
    depthwise = "depthwise_kernel" if "depthwise_kernel" in arrays else "kernel"
    tensors[f"{slot.paths[0]}.weight"] = _tensor(arrays, depthwise).permute(2, 3, 0, 1)
    if slot.kind == "separable_conv2d":
        tensors[f"{slot.paths[1]}.weight"] = _tensor(arrays, "pointwise_kernel").permute(3, 2, 0, 1)
    return tensors


def _tensor(arrays: dict[str, np.ndarray], name: str) -> torch.Tensor:
    if name not in arrays:
        raise UserError(f"a layer has {', '.join(arrays)} and no {name}")
    return torch.from_numpy(np.array(arrays[name]))
