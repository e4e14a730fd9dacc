"""How a PyTorch file's names map to a model of ours, and the weights that follow.

Each source of weights is a `Draft`: a model with the right options, and for each of its convolutions the
names in the file. Everything in the file must be used, or left aside for a stated reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from deeplab.config import NormConfig, PixelConfig
from deeplab.errors import UserError
from deeplab.layers.conv import ConvNormAct
from deeplab.model.network import DeepLab

Weights = Mapping[str, torch.Tensor]

# what PyTorch's own layers and torchvision's preprocessing have
TORCH_NORM = NormConfig(eps=1e-5, momentum=0.1)
TORCH_PIXELS = PixelConfig(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))

NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")
COUNTER = "num_batches_tracked"
SHOWN = 5


class Layer(NamedTuple):
    """The names in the file of one layer of ours.

    conv, norm: module names. roll: how far input channels move up, where a source concatenates its features
    in another order. factor: on the kernel. background: a single logit (for a sigmoid) becomes two, the first
    always 0.
    """

    conv: str
    norm: str | None = None
    roll: int = 0
    factor: float = 1.0
    background: bool = False


@dataclass(frozen=True)
class Draft:
    """A source understood.

    Attributes:
        layers: by path in `model`.
        left_out: beginnings of names in the file -> why they have no place.
        new: beginnings of keys of `model` that keep their random values.
        classes: names of the classes, if the source has them.
        complete: whether the source says rates and output stride.
    """

    network: str
    model: DeepLab
    layers: dict[str, Layer]
    left_out: dict[str, str] = field(default_factory=dict)
    new: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    complete: bool = False


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts layer.10 behind layer.9: files of safetensors are in the order of the alphabet."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split("."))


def in_order(weights: Weights, prefix: str) -> list[Layer]:
    """The convolutions under `prefix` in forward order, each with the norm behind it, if any."""
    modules = {name.rpartition(".")[0] for name in weights if name.startswith(prefix)}
    layers: list[Layer] = []
    for module in sorted(modules, key=natural):
        if f"{module}.running_mean" in weights and layers:
            layers[-1] = layers[-1]._replace(norm=module)
        elif f"{module}.weight" in weights and weights[f"{module}.weight"].dim() == 4:
            layers.append(Layer(module))
    return layers


def spatial_layers(ours: str, conv: str, norm: str, weights: Weights, *, roll: int = 0) -> dict[str, Layer]:
    """A head's 3x3, plain or separable (without a norm inside), as PyTorch libraries name it."""
    if f"{conv}.weight" in weights:
        return {ours: Layer(conv, norm, roll)}
    body = f"{conv}.body" if f"{conv}.body.0.weight" in weights else conv
    return {
        f"{ours}.depthwise": Layer(f"{body}.0", roll=roll),
        f"{ours}.pointwise": Layer(f"{body}.1", norm, roll),
    }


def size(weights: Weights, conv: str, axis: int = 0) -> int:
    """Output channels of a convolution in the file, or another side of its kernel.

    Raises:
        UserError: there is none of that name.
    """
    weight = weights.get(f"{conv}.weight")
    if weight is None:
        raise UserError(f"there is no {conv}.weight, which a network of this kind has")
    return weight.shape[axis]


def count(weights: Weights, pattern: str) -> int:
    """How many numbers, from 0 on, stand where `pattern` has its one group."""
    found = {int(match[1]) for name in weights if (match := re.match(pattern, name))}
    return max(found, default=-1) + 1


def convert(draft: Draft, weights: Weights) -> tuple[dict[str, torch.Tensor], list[str], list[str]]:
    """Weights by key of our model; the names that were used, and those left aside.

    Raises:
        UserError: a name is missing, or one has no place in the model.
    """
    ours, used = layer_weights(draft.model, draft.layers, weights)
    rest = weights.keys() - set(used)
    aside = [name for name in rest if name.startswith(tuple(draft.left_out)) or name.endswith(COUNTER)]
    _check_all_used(rest - set(aside), draft.network)
    return ours, used, aside


def layer_weights(
    model: nn.Module, layers: Mapping[str, Layer], weights: Weights
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Weights by key of `model`, of the `layers` at these paths in it, and the names that were used.

    Raises:
        UserError: a name is missing.
    """
    used: list[str] = []

    def take(name: str) -> torch.Tensor:
        if name not in weights:
            raise UserError(f"there is no {name}, which a network of this kind has")
        used.append(name)
        return weights[name]

    ours: dict[str, torch.Tensor] = {}
    for path, layer in layers.items():
        module = model.get_submodule(path)
        conv, key = (module.conv, f"{path}.conv") if isinstance(module, ConvNormAct) else (module, path)
        ours |= _convolution(conv, key, layer, take)
        if layer.norm:
            ours |= {f"{path}.norm.{leaf}": take(f"{layer.norm}.{leaf}") for leaf in NORM_LEAVES}
            if f"{layer.norm}.{COUNTER}" in weights:
                ours[f"{path}.norm.{COUNTER}"] = take(f"{layer.norm}.{COUNTER}")
    return ours, used


def _convolution(
    conv: nn.Module, key: str, layer: Layer, take: Callable[[str], torch.Tensor]
) -> dict[str, torch.Tensor]:
    weight = take(f"{layer.conv}.weight")
    if layer.roll:
        # a depthwise kernel has its channels in front
        weight = weight.roll(layer.roll, 0 if conv.groups > 1 else 1)
    values = {"weight": weight * layer.factor}
    if conv.bias is not None:
        values["bias"] = take(f"{layer.conv}.bias")
    if layer.background:
        values = {leaf: torch.cat([torch.zeros_like(value), value]) for leaf, value in values.items()}
    return {f"{key}.{leaf}": value for leaf, value in values.items()}


def _check_all_used(names: Iterable[str], network: str) -> None:
    names = sorted(names, key=natural)
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise UserError(f"{network} has no place for {', '.join(names[:SHOWN])}{more}")
