"""Which network of v1 or v2 a Caffe model's layers are, and where each layer's weights go.

Names are those of the released models: conv1_1 to conv5_3 with fc6-fc7-fc8 (v1: DeepLab-LargeFOV, 7x7, 4x4),
with data_conv-data_fc-data_ms and the like of four poolings (v1's MSc), or with fc6_1-fc7_1-fc8_1 to 4 (v2 on
VGG-16); res2a_branch2a with bn and scale layers, and fc1 branches (v2 on ResNet-101). Names with res075 and
res05 are copies for smaller images. Caffe reads BGR photos, its poolings round sizes up, and its ResNets have
their strides in the first 1x1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from deeplab.backbones.resnet import UNITS
from deeplab.backbones.vgg import STAGES
from deeplab.config import (
    DeepLabConfig,
    FullyConnectedConfig,
    NoContextConfig,
    NormConfig,
    VGG16Config,
    backbone_config,
)
from deeplab.errors import UserError
from deeplab.importers.caffe.file import CaffeLayer
from deeplab.importers.new_head import new_head
from deeplab.importers.published import labels_for
from deeplab.model.network import DeepLab
from deeplab.presets.pixels import CAFFE_PIXELS

Convs = dict[str, tuple[str, ...]]

MOMENTUM = 0.001
# branches, kernel -> rates of the released models (LargeFOV, 4x4 and 7x7; ASPP-L), for files without windows
RATES = {(1, 3): (12,), (1, 4): (4,), (1, 7): (4,), (4, 3): (6, 12, 18, 24)}
OUTPUT_STRIDE = 8
VOC_CLASSES = 21
SMALLER_COPY = re.compile(r"_?res0(\d+)")
CLASSIFIER = "classifiers.semantic.convs"
# what the branches of v1's MSc begin from
SHALLOW = ("data", "pool1", "pool2", "pool3", "pool4")


class Source(NamedTuple):
    """A file's layers without the copies for smaller images, the scales of those, and a user's rates."""

    layers: Mapping[str, CaffeLayer]
    scales: tuple[float, ...]
    rates: tuple[int, ...] | None
    sha256: str


class Plan(NamedTuple):
    """A model to fill.

    Attributes:
        convs: path of each convolution -> its layers; several are concatenated, and their biases summed.
        norms: path of each norm -> what its layers' names end in, behind bn and scale.
        new: beginnings of the keys that the file does not hold.
    """

    model: DeepLab
    convs: Convs
    norms: dict[str, str]
    new: tuple[str, ...]

    @property
    def is_backbone(self) -> bool:
        """Whether only the backbone comes from the file."""
        return "context." in self.new


def without_copies(layers: Mapping[str, CaffeLayer], *, rates: tuple[int, ...] | None, sha256: str) -> Source:
    """The source whose layers these are."""
    copies = {name: SMALLER_COPY.search(name) for name in layers}
    scales = {float(f"0.{match[1]}") for match in copies.values() if match}
    main = {name: layer for name, layer in layers.items() if not copies[name]}
    return Source(main, (1.0, *sorted(scales, reverse=True)), rates, sha256)


def plan_network(source: Source) -> Plan:
    """The network of `source`, with random weights, and what fills it.

    Raises:
        UserError: layers of other networks, or strides and rates that no model here has.
    """
    if "conv1_1" in source.layers and "conv5_3" in source.layers:
        return _vgg(source)
    if "res2a_branch2a" in source.layers:
        return _resnet(source)
    names = ", ".join([name for name, layer in source.layers.items() if layer.blobs][:4])
    raise UserError(f"its layers ({names}, ...) are neither VGG-16's conv1_1 nor a ResNet's res2a_branch2a")


def _vgg(source: Source) -> Plan:
    convs: Convs = {
        f"backbone.stages.{stage}.{index}.conv": (f"conv{stage + 1}_{index + 1}",)
        for stage, (_, count) in enumerate(STAGES)
        for index in range(count)
    }
    backbone = VGG16Config(padding="caffe")
    hidden = _convolutions(source, r"fc6(_\d)?")
    if not hidden:
        return Plan(new_head(backbone, pixels=CAFFE_PIXELS), convs, {}, ("context.", "classifiers."))
    for branch, name in enumerate(hidden):
        convs[f"context.branches.{branch}.fc6.conv"] = (name,)
        convs[f"context.branches.{branch}.fc7.conv"] = (name.replace("fc6", "fc7"),)
    classifiers = _convolutions(source, r"fc8(_.+)?")
    shallow = source.layers.get("data_ms")
    if shallow:
        convs |= _multi_scale_branches()
        classifiers += tuple(f"{name}_ms" for name in SHALLOW)
    weight = source.layers[hidden[0]].blobs[0]
    config = DeepLabConfig(
        backbone=backbone,
        context=FullyConnectedConfig(
            channels=weight.shape[0],
            rates=_rates(source, hidden),
            kernel=weight.shape[-1],
            smooth="pool5a" in source.layers,
            dropout=0.5,
        ),
        multi_scale_features=shallow.blobs[0].shape[1] if shallow else None,
        num_classes=_classes(source, classifiers),
        output_stride=_output_stride(source, [f"pool{number}" for number in range(1, 6)]),
        image_pyramid=source.scales,
        pixels=CAFFE_PIXELS,
    )
    return _with_classifiers(source, config, convs=convs, norms={}, classifiers=[classifiers])


def _multi_scale_branches() -> Convs:
    return {
        f"multi_scale.branches.{index}.{part}.conv": (f"{name}_{kind}",)
        for index, name in enumerate(SHALLOW)
        for part, kind in enumerate(("conv", "fc"))
    }


def _resnet(source: Source) -> Plan:
    convs, norms, depth = _residual_units(source)
    backbone = backbone_config(
        f"resnet{depth}",
        strides_at="first_1x1",
        rate_grows_at="unit",
        padding="caffe",
        norm=NormConfig(eps=_epsilon(source), momentum=MOMENTUM),
    )
    classifiers = _convolutions(source, r"fc1(_.+)?")
    if not classifiers:
        model = new_head(backbone, pixels=CAFFE_PIXELS)
        return Plan(model, convs, norms, ("context.", "decoder.", "classifiers."))
    kernel = source.layers[classifiers[0]].blobs[0].shape[-1]
    strided = ["conv1", "pool1", *(f"res{block}a_branch2a" for block in (3, 4, 5))]
    config = DeepLabConfig(
        backbone=backbone,
        context=NoContextConfig(),
        num_classes=_classes(source, classifiers),
        classifier_kernel=kernel,
        classifier_rates=_rates(source, classifiers) if kernel > 1 else (),
        output_stride=_output_stride(source, strided),
        image_pyramid=source.scales,
        pixels=CAFFE_PIXELS,
    )
    return _with_classifiers(
        source, config, convs=convs, norms=norms, classifiers=[(name,) for name in classifiers]
    )


def _residual_units(source: Source) -> tuple[Convs, dict[str, str], int]:
    convs: Convs = {"backbone.stem.0.conv": ("conv1",)}
    norms, units = {"backbone.stem.0.norm": "_conv1"}, []
    parts = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}
    for block in range(4):
        names = _unit_names(source, block + 2)
        units.append(len(names))
        for unit, name in enumerate(names):
            for part, branch in parts.items():
                if f"res{name}_branch{branch}" in source.layers:
                    path = f"backbone.blocks.{block}.{unit}.{part}"
                    convs[f"{path}.conv"] = (f"res{name}_branch{branch}",)
                    norms[f"{path}.norm"] = f"{name}_branch{branch}"
    depth = next((depth for depth, counts in UNITS.items() if depth >= 50 and counts == tuple(units)), None)
    if depth is None:
        raise UserError(f"a ResNet of {units} units; known are those of 50, 101 and 152 layers")
    return convs, norms, depth


def _unit_names(source: Source, block: int) -> list[str]:
    """3a, 3b1, 3b2 as in ResNet-101, or 3a, 3b, 3c as in ResNet-50."""
    names = [f"{block}a"]
    numbered = f"res{block}b1_branch2a" in source.layers
    while True:
        count = len(names)
        name = f"{block}b{count}" if numbered else f"{block}{chr(ord('a') + count)}"
        if f"res{name}_branch2a" not in source.layers:
            return names
        names.append(name)


def _with_classifiers(
    source: Source,
    config: DeepLabConfig,
    *,
    convs: Convs,
    norms: dict[str, str],
    classifiers: list[tuple[str, ...]],
) -> Plan:
    """One convolution for each of `classifiers`; without any, as where training began from, a new one."""
    model = DeepLab(config, labels_for(config.num_classes, source.sha256)[0])
    paths = {f"{CLASSIFIER}.{index}": names for index, names in enumerate(classifiers) if names}
    return Plan(model, convs | paths, norms, () if paths else ("classifiers.",))


def _convolutions(source: Source, pattern: str) -> tuple[str, ...]:
    """Names, sorted, of the convolutions with weights whose whole name fits `pattern`."""
    return tuple(
        sorted(
            name
            for name, layer in source.layers.items()
            if layer.kind == "Convolution" and layer.blobs and re.fullmatch(pattern, name)
        )
    )


def _rates(source: Source, names: tuple[str, ...]) -> tuple[int, ...]:
    windows = [source.layers[name].window for name in names]
    if all(windows):
        return tuple(window.rate for window in windows if window)
    kernel = source.layers[names[0]].blobs[0].shape[-1]
    rates = source.rates or RATES.get((len(names), kernel), ())
    if len(rates) != len(names):
        raise UserError(
            f"{len(names)} branches of {kernel}x{kernel}, without windows that say their rates; "
            f"give --rates, one a branch; found {rates}"
        )
    return rates


def _output_stride(source: Source, names: list[str]) -> int:
    windows = [source.layers[name].window if name in source.layers else None for name in names]
    product = math.prod(window.stride for window in windows if window) if all(windows) else OUTPUT_STRIDE
    if product not in (4, 8, 16, 32):
        raise UserError(f"its strides multiply to {product}; known output strides: 4, 8, 16, 32")
    return product


def _classes(source: Source, classifiers: tuple[str, ...]) -> int:
    return source.layers[classifiers[0]].blobs[0].shape[0] if classifiers else VOC_CLASSES


def _epsilon(source: Source) -> float:
    found = {layer.eps for layer in source.layers.values() if layer.kind == "BatchNorm"}
    if len(found) != 1:
        raise UserError(f"batch norms with epsilons {sorted(found)}; a ResNet here has one")
    return found.pop()
