"""Follow a network as its data flows and give every convolution the path it has in our model.

Stem, inverted residuals, context branches, decoder, classifier: reference facts 2.4, 2.6, 3.2, 3.4, 3.5. A layer
is known by what it reads and computes, not by its place in the file; branches may be joined in any order, and
weights are put in ours. Every layer must be met exactly once; the first that does not fit is named in an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import nn

from deeplab.backbones import build_backbone
from deeplab.backbones.mobilenet import MobileNet
from deeplab.config import MobileNetEdgeTPUConfig, MobileNetV2Config
from deeplab.errors import UserError
from deeplab.importers.tflite.layers import Add, Concat, Conv, Layer, Network, Pair, Pool, Resize, Tail
from deeplab.layers.conv import ConvNormAct

LayerT = TypeVar("LayerT", bound=Layer)
Family = type[MobileNetV2Config] | type[MobileNetEdgeTPUConfig]

STEM = "backbone.stem"
LAST = "backbone.last"
CLASSIFIER = "classifiers.semantic.convs.0"
NAMES: dict[Family, str] = {MobileNetV2Config: "MobileNetV2", MobileNetEdgeTPUConfig: "MobileNet-EdgeTPU"}


@dataclass
class Found:
    """What the walk met.

    Attributes:
        family: of the backbone.
        convs: by module path in our model, in the order met; weights in our model's order of channels.
        skips: for each inverted residual, whether its input is added to its output.
        features: tensor number of the backbone's output.
        branches: kinds of the context branches in our model's order; empty for no context.
        rates: of the atrous branches, in that order.
        pooling: the image pooling, if any.
        decoder_strides: nominal stride of the low-level feature of each decoder stage.
        sums: tensor number of each skip's sum, by its inverted residual's path; joins: of each concatenation,
            by the path of the context or decoder stage.
        resizes: all of them; tail: operations behind the logits; late: resizes behind the first of those.
    """

    family: Family = MobileNetV2Config
    convs: dict[str, Conv] = field(default_factory=dict)
    skips: list[bool] = field(default_factory=list)
    features: int = -1
    sums: dict[str, int] = field(default_factory=dict)
    joins: dict[str, int] = field(default_factory=dict)
    branches: list[str] = field(default_factory=list)
    rates: list[int] = field(default_factory=list)
    pooling: Pool | None = None
    decoder_strides: list[int] = field(default_factory=list)
    resizes: list[Resize] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)
    late: int = 0


def follow(network: Network) -> Found:
    """Walk `network` from its input to its outputs.

    Raises:
        UserError: a layer that a DeepLab on one of the MobileNets would not have there, or one that is never met.
    """
    return _Walk(network).follow()


def template(config: MobileNetV2Config | MobileNetEdgeTPUConfig) -> MobileNet:
    """The backbone of `config`, without memory for its weights."""
    with torch.device("meta"):
        backbone = build_backbone(config, folded=True)
    assert isinstance(backbone, MobileNet)
    return backbone


def window(layer: ConvNormAct) -> Pair:
    """Height and width of its kernel."""
    height, width = layer.conv.kernel_size
    return height, width


def block_convs(block: nn.Module) -> dict[str, ConvNormAct]:
    """The convolutions of an inverted residual by name, in running order."""
    return {name: layer for name, layer in block.named_children() if isinstance(layer, ConvNormAct)}


@dataclass(frozen=True)
class _Branch:
    kind: Literal["image pooling", "1x1", "atrous"]
    convs: dict[str, Conv]
    output: int


class _Walk:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.makers = {layer.output: layer for layer in network.layers}
        self.met: set[int] = set()
        self.found = Found()
        # output of a decoder end point -> its nominal stride
        self.end_points: dict[int, int] = {}
        # of maps that were joined in another order: where each channel of ours is in the file's
        self.orders: dict[int, np.ndarray] = {}
        self.classifier = self._classifier()

    def follow(self) -> Found:
        features = self._backbone(self.network.source)
        self.found.features = features
        x = self._context(features)
        x = self._decoder(x)
        if x not in self.classifier.sources:
            raise UserError(f"{self._name(self.classifier)} does not read what the decoder or context makes")
        self._end(self._keep(CLASSIFIER, self.classifier), behind=False)
        left = [layer for layer in self.network.layers if layer.output not in self.met]
        if left:
            more = f", nor are {len(left) - 1} more layers" if len(left) > 1 else ""
            raise UserError(f"{self._name(left[0])} is not part of a {self._network_name()}{more}")
        return self.found

    def _network_name(self) -> str:
        return f"{NAMES[self.found.family]} DeepLab"

    def _classifier(self) -> Conv:
        layer = self.makers.get(self.network.outputs[0])
        while isinstance(layer, Resize | Tail):
            layer = self.makers.get(layer.sources[0])
        if not isinstance(layer, Conv) or layer.window != (1, 1) or not layer.acts_as(None):
            name = self._name(layer) if layer else "the network's input"
            raise UserError(f"the logits come from {name}; known: a linear 1x1 convolution")
        return layer

    def _backbone(self, x: int) -> int:
        x = self._take(STEM, x, kernel=(3, 3), linear=False)
        if not any(conv.depthwise for conv in self._readers(x, Conv)):
            self.found.family = MobileNetEdgeTPUConfig
        known = template(self.found.family())
        nominal = {index: stride for stride, index in known.end_points.items()}
        for index, block in enumerate(known.blocks):
            path, out = f"backbone.blocks.{index}", x
            for name, layer in block_convs(block).items():
                if name == "project" and index in nominal:
                    self.end_points[out] = nominal[index]
                out = self._take(
                    f"{path}.{name}",
                    out,
                    kernel=window(layer),
                    linear=isinstance(layer.activation, nn.Identity),
                    depthwise=layer.conv.groups > 1,
                )
            sums = [add for add in self._readers(out, Add) if set(add.sources) == {x, out}]
            self.found.skips.append(bool(sums))
            if sums:
                self.found.sums[path] = self._meet(sums[0])
            x = self.found.sums.get(path, out)
        if isinstance(known.last, ConvNormAct):
            x = self._take(LAST, x, kernel=window(known.last), linear=False)
        return x

    def _context(self, features: int) -> int:
        if features in self.classifier.sources:
            return features
        branches = [self._branch(layer) for layer in self._readers(features, Layer)]
        x = self._join(branches)
        if any(conv is not self.classifier for conv in self._readers(x, Conv)):
            x = self._take("context.projection", x, kernel=(1, 1), linear=False)
        return x

    def _branch(self, layer: Layer) -> _Branch:
        x = self._meet(layer)
        if isinstance(layer, Pool) and self.found.pooling is None:
            self.found.pooling = layer
            conv = self._only_conv(x, "the pooled image", kernel=(1, 1), linear=False)
            return _Branch("image pooling", {"": conv}, self._through_resizes(conv.output))
        if not isinstance(layer, Conv):
            raise UserError(f"{self._name(layer)} reads the backbone's features: no context branch does that")
        if layer.depthwise:
            pointwise = self._only_conv(x, self._name(layer), kernel=(1, 1), linear=False)
            return _Branch("atrous", {".depthwise": layer, ".pointwise": pointwise}, pointwise.output)
        return _Branch("1x1" if layer.window == (1, 1) else "atrous", {"": layer}, x)

    def _join(self, branches: list[_Branch]) -> int:
        if not branches:
            raise UserError("nothing reads the backbone's features")
        concats = self._readers(branches[0].output, Concat)
        if concats:
            by_output = {branch.output: branch for branch in branches}
            if sorted(by_output) != sorted(concats[0].sources):
                raise UserError(f"{self._name(concats[0])} does not join exactly the context branches")
            branches = self._name_branches([by_output[number] for number in concats[0].sources])
            self.found.joins["context"] = self._meet(concats[0])
            return self._put_in_order(concats[0], [branch.output for branch in branches])
        if len(branches) > 1:
            raise UserError(f"{len(branches)} context branches that no concatenation joins")
        return self._name_branches(branches)[0].output

    def _put_in_order(self, concat: Concat, wanted: list[int]) -> int:
        places, start = {}, 0
        for number in concat.sources:
            channels = self.network.channels(number)
            places[number] = start + self.orders.get(number, np.arange(channels))
            start += channels
        order = np.concatenate([places[number] for number in wanted])
        if not np.array_equal(order, np.arange(start)):
            self.orders[concat.output] = order
        return concat.output

    def _name_branches(self, branches: list[_Branch]) -> list[_Branch]:
        kinds = ("image pooling", "1x1", "atrous")
        seen = [branch.kind for branch in branches]
        if seen.count("1x1") != 1:
            raise UserError(f"context branches {', '.join(seen)}; known: image pooling, one 1x1, then atrous")
        ours = sorted(branches, key=lambda branch: kinds.index(branch.kind))
        if ours != branches:
            ours.sort(key=lambda branch: (kinds.index(branch.kind), self._rate(branch)))
        self.found.branches = [branch.kind for branch in ours]
        paths = {"image pooling": "context.image_pooling.project", "1x1": "context.pointwise"}
        for branch in ours:
            path = paths.get(branch.kind, f"context.atrous.{len(self.found.rates)}")
            if branch.kind == "atrous":
                self.found.rates.append(self._rate(branch))
            self.found.convs.update({path + suffix: conv for suffix, conv in branch.convs.items()})
        return ours

    def _rate(self, branch: _Branch) -> int:
        conv = next(iter(branch.convs.values()))
        if conv.rate[0] != conv.rate[1]:
            raise UserError(f"{self._name(conv)} has rates {conv.rate}; known: equal ones")
        return conv.rate[0]

    def _decoder(self, x: int) -> int:
        while True:
            resized = self._through_resizes(x)
            concats = self._readers(resized, Concat)
            if not concats:
                return resized
            x = self._stage(len(self.found.decoder_strides), resized, concats[0])

    def _stage(self, index: int, x: int, concat: Concat) -> int:
        path = f"decoder.stages.{index}"
        details = [number for number in concat.sources if number != x]
        detail = details[0] if len(details) == 1 else -1
        while isinstance(resize := self.makers.get(detail), Resize):
            detail = self._pass_resize(resize, backwards=True)
        project = self.makers.get(detail)
        if (
            not isinstance(project, Conv)
            or project.window != (1, 1)
            or project.sources[0] not in self.end_points
            or len(concat.sources) != 2
        ):
            raise UserError(
                f"{self._name(concat)} is no decoder step; known: the features, and a 1x1 convolution of "
                "one of the backbone's end points"
            )
        self.found.decoder_strides.append(self.end_points[project.sources[0]])
        self._keep(f"{path}.project", project)
        self.found.joins[path] = self._meet(concat)
        x = self._put_in_order(concat, [x, *details])
        for step in range(2):
            x = self._refine(f"{path}.convs.{step}", x)
        return x

    def _refine(self, path: str, x: int) -> int:
        if any(conv.depthwise for conv in self._readers(x, Conv)):
            x = self._take(f"{path}.depthwise", x, kernel=(3, 3), linear=False, depthwise=True)
            return self._take(f"{path}.pointwise", x, kernel=(1, 1), linear=False)
        return self._take(path, x, kernel=(3, 3), linear=False)

    def _end(self, x: int, *, behind: bool) -> None:
        readers = self._readers(x, Layer)
        if not all(isinstance(layer, Resize | Tail) for layer in readers) or not (
            readers or x in self.network.outputs
        ):
            names = ", ".join(self._name(layer) for layer in readers) or "nothing"
            raise UserError(f"the logits are read by {names}; known: resizes, softmax, argmax, cast, reshape")
        for layer in readers:
            if isinstance(layer, Tail):
                self.found.tail.append(layer.kind)
                self.found.late += behind and layer.kind.startswith("RESIZE")
            elif isinstance(layer, Resize):
                self.found.resizes.append(layer)
                self.found.late += behind
            self._end(self._meet(layer), behind=behind or isinstance(layer, Tail))

    def _take(self, path: str, source: int, *, kernel: Pair, linear: bool, depthwise: bool = False) -> int:
        return self._keep(
            path, self._only_conv(source, path, kernel=kernel, linear=linear, depthwise=depthwise)
        )

    def _keep(self, path: str, conv: Conv) -> int:
        self.found.convs[path] = self._in_order(conv)
        return self._meet(conv)

    def _in_order(self, conv: Conv) -> Conv:
        order = self.orders.get(conv.sources[0])
        if order is None:
            return conv
        if not conv.depthwise:
            return replace(conv, kernel=conv.kernel[:, order])
        self.orders[conv.output] = order
        scales = conv.scales[order] if conv.scales is not None and len(conv.scales) > 1 else conv.scales
        return replace(conv, kernel=conv.kernel[order], bias=conv.bias[order], scales=scales)

    def _only_conv(
        self, source: int, what: str, *, kernel: Pair, linear: bool, depthwise: bool = False
    ) -> Conv:
        alike = [
            conv
            for conv in self._readers(source, Conv)
            if (conv.window, conv.depthwise) == (kernel, depthwise) and conv is not self.classifier
        ]
        # an 8-bit layer that its grid clips may be linear or not: it is taken where no other fits
        clipping = [conv for conv in alike if conv.acts_as("relu") or conv.acts_as("relu6")]
        straight = [conv for conv in alike if conv.acts_as(None)]
        wanted, other = (straight, clipping) if linear else (clipping, straight)
        fitting = [conv for conv in wanted if conv not in other] or wanted
        if len(fitting) != 1:
            kind = f"{'linear ' if linear else ''}{'depthwise ' if depthwise else ''}{kernel[0]}x{kernel[1]}"
            near = ", ".join(self._name(layer) for layer in self._readers(source, Layer)) or "nothing"
            raise UserError(
                f"{what}: a {self._network_name()} has one {kind} convolution after tensor "
                f"{self.network.name(source)}; found {len(fitting)}, among {near}"
            )
        self._meet(fitting[0])
        return fitting[0]

    def _through_resizes(self, x: int) -> int:
        readers = self._readers(x, Layer)
        while len(readers) == 1 and isinstance(readers[0], Resize):
            x = self._pass_resize(readers[0])
            readers = self._readers(x, Layer)
        return x

    def _pass_resize(self, layer: Resize, *, backwards: bool = False) -> int:
        self.found.resizes.append(layer)
        self._meet(layer)
        if layer.sources[0] in self.orders:
            self.orders[layer.output] = self.orders[layer.sources[0]]
        return layer.sources[0] if backwards else layer.output

    def _readers(self, number: int, kind: type[LayerT]) -> list[LayerT]:
        return [
            layer
            for layer in self.network.layers
            if isinstance(layer, kind) and number in layer.sources and layer.output not in self.met
        ]

    def _meet(self, layer: Layer) -> int:
        self.met.add(layer.output)
        return layer.output

    def _name(self, layer: Layer) -> str:
        return f"operation {layer.op} ({type(layer).__name__.lower()} -> {self.network.name(layer.output)})"
