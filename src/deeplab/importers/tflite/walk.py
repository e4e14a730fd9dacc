"""Follow a network as its data flows and give every convolution the path it has in our model.

Stem, inverted residuals, context branches, decoder, classifier: reference facts 2.4, 3.2, 3.4, 3.5. Every
layer must be met exactly once; the first that does not fit is named in an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar

from deeplab.backbones.mobilenet_v2 import END_POINTS, STAGES
from deeplab.errors import UserError
from deeplab.importers.tflite.layers import Add, Concat, Conv, Layer, Network, Pair, Pool, Resize, Tail

LayerT = TypeVar("LayerT", bound=Layer)

CLASSIFIER = "classifiers.semantic.convs.0"
BLOCKS = sum(repeats for _, _, repeats, _ in STAGES)
NOMINAL_STRIDES = {index: stride for stride, index in END_POINTS.items()}


@dataclass
class Found:
    """What the walk met.

    Attributes:
        convs: by module path in our model, in the order met.
        skips: for each inverted residual, whether its input is added to its output.
        features: tensor number of the backbone's output.
        branches: kinds of the context branches in the order they are concatenated; empty for no context.
        rates: of the atrous branches, in that order.
        pooling: the image pooling, if any.
        decoder_strides: nominal stride of the low-level feature of each decoder stage.
        sums: tensor number of each skip's sum, by its inverted residual's path; joins: of each concatenation,
            by the path of the context or decoder stage.
        resizes: all of them; tail: operations behind the logits.
    """

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


def follow(network: Network) -> Found:
    """Walk `network` from its input to its output.

    Raises:
        UserError: a layer that a MobileNetV2 DeepLab would not have there, or one that is never met.
    """
    return _Walk(network).follow()


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

    def follow(self) -> Found:
        features = self._backbone(self.network.source)
        self.found.features = features
        x = self._context(features)
        x = self._decoder(x)
        self._end(self._take(CLASSIFIER, x, kernel=(1, 1), linear=True))
        left = [layer for layer in self.network.layers if layer.output not in self.met]
        if left:
            more = f", nor are {len(left) - 1} more layers" if len(left) > 1 else ""
            raise UserError(f"{self._name(left[0])} is not part of a MobileNetV2 DeepLab{more}")
        return self.found

    def _backbone(self, x: int) -> int:
        x = self._take("backbone.stem", x, kernel=(3, 3), linear=False)
        for index in range(BLOCKS):
            path = f"backbone.blocks.{index}"
            hidden = self._take(f"{path}.expand", x, kernel=(1, 1), linear=False) if index else x
            hidden = self._take(f"{path}.depthwise", hidden, kernel=(3, 3), linear=False, depthwise=True)
            if index in NOMINAL_STRIDES:
                self.end_points[hidden] = NOMINAL_STRIDES[index]
            out = self._take(f"{path}.project", hidden, kernel=(1, 1), linear=True)
            sums = [add for add in self._readers(out, Add) if set(add.sources) == {x, out}]
            self.found.skips.append(bool(sums))
            if sums:
                self.found.sums[path] = self._meet(sums[0])
            x = self.found.sums.get(path, out)
        return x

    def _context(self, features: int) -> int:
        readers = self._readers(features, Layer)
        if len(readers) == 1 and isinstance(readers[0], Conv) and readers[0].activation is None:
            return features
        branches = [self._branch(layer) for layer in readers]
        x = self._join(branches)
        if any(conv.activation for conv in self._readers(x, Conv)):
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
        return _Branch("1x1" if layer.kernel == (1, 1) else "atrous", {"": layer}, x)

    def _join(self, branches: list[_Branch]) -> int:
        if not branches:
            raise UserError("nothing reads the backbone's features")
        concats = self._readers(branches[0].output, Concat)
        if concats:
            x = self.found.joins["context"] = self._meet(concats[0])
            order = {number: position for position, number in enumerate(concats[0].sources)}
            if sorted(order) != sorted(branch.output for branch in branches):
                raise UserError(f"{self._name(concats[0])} does not join exactly the context branches")
            branches.sort(key=lambda branch: order[branch.output])
        elif len(branches) == 1:
            x = branches[0].output
        else:
            raise UserError(f"{len(branches)} context branches that no concatenation joins")
        self._name_branches(branches)
        return x

    def _name_branches(self, branches: list[_Branch]) -> None:
        kinds = [branch.kind for branch in branches]
        expected = [kind for kind in ("image pooling", "1x1") if kind in kinds]
        expected += ["atrous"] * kinds.count("atrous")
        if kinds != expected or "1x1" not in kinds:
            raise UserError(f"context branches in the order {kinds}; known: image pooling, 1x1, then atrous")
        self.found.branches = list(kinds)
        paths = {"image pooling": "context.image_pooling.project", "1x1": "context.pointwise"}
        for branch in branches:
            path = paths.get(branch.kind, f"context.atrous.{len(self.found.rates)}")
            if branch.kind == "atrous":
                self.found.rates.append(self._rate(next(iter(branch.convs.values()))))
            self.found.convs.update({path + suffix: conv for suffix, conv in branch.convs.items()})

    def _rate(self, conv: Conv) -> int:
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
        detail = concat.sources[-1]
        while isinstance(self.makers.get(detail), Resize):
            detail = self._pass_resize(self.makers[detail], backwards=True)
        project = self.makers.get(detail)
        known = (
            isinstance(project, Conv) and project.kernel == (1, 1) and project.sources[0] in self.end_points
        )
        if len(concat.sources) != 2 or concat.sources[0] != x or not known:
            raise UserError(
                f"{self._name(concat)} is no decoder step; known: the features, then a 1x1 convolution of "
                "one of the backbone's end points"
            )
        self.found.convs[f"{path}.project"] = project
        self.found.decoder_strides.append(self.end_points[project.sources[0]])
        self._meet(project)
        x = self.found.joins[path] = self._meet(concat)
        for step in range(2):
            x = self._refine(f"{path}.convs.{step}", x)
        return x

    def _refine(self, path: str, x: int) -> int:
        if any(conv.depthwise for conv in self._readers(x, Conv)):
            x = self._take(f"{path}.depthwise", x, kernel=(3, 3), linear=False, depthwise=True)
            return self._take(f"{path}.pointwise", x, kernel=(1, 1), linear=False)
        return self._take(path, x, kernel=(3, 3), linear=False)

    def _end(self, x: int) -> None:
        while x != self.network.output:
            readers = self._readers(x, Layer)
            if len(readers) != 1 or not isinstance(readers[0], Resize | Tail):
                names = ", ".join(self._name(layer) for layer in readers) or "nothing"
                raise UserError(
                    f"the logits are read by {names}; known: resizes, softmax, argmax, cast, reshape"
                )
            if isinstance(readers[0], Tail):
                self.found.tail.append(readers[0].kind)
                x = self._meet(readers[0])
            else:
                x = self._pass_resize(readers[0])

    def _take(self, path: str, source: int, *, kernel: Pair, linear: bool, depthwise: bool = False) -> int:
        conv = self._only_conv(source, path, kernel=kernel, linear=linear, depthwise=depthwise)
        self.found.convs[path] = conv
        return conv.output

    def _only_conv(
        self, source: int, what: str, *, kernel: Pair, linear: bool, depthwise: bool = False
    ) -> Conv:
        wanted = (kernel, linear, depthwise)
        fitting = [
            conv
            for conv in self._readers(source, Conv)
            if (conv.kernel, conv.activation is None, conv.depthwise) == wanted
        ]
        if len(fitting) != 1:
            kind = f"{'linear ' if linear else ''}{'depthwise ' if depthwise else ''}{kernel[0]}x{kernel[1]}"
            near = ", ".join(self._name(layer) for layer in self._readers(source, Layer)) or "nothing"
            raise UserError(
                f"{what}: a MobileNetV2 DeepLab has one {kind} convolution after tensor "
                f"{self._tensor(source)}; found {len(fitting)}, among {near}"
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
        return f"operation {layer.op} ({type(layer).__name__.lower()} -> {self._tensor(layer.output)})"

    def _tensor(self, number: int) -> str:
        # converters join the names of all that was fused, with semicolons
        return self.network.tensor(number).name.split(";")[0] or f"number {number}"
