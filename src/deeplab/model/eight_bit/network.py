"""What a quantised DeepLab on a MobileNet without gates computes between photo and logits, step by step in 8 bits.

The model keeps its real weights; here are the grids that its values are rounded to. Every layer is read from
the model as it is now, so output stride and input size are free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from deeplab.backbones.mobilenet import MobileNet
from deeplab.config import ResizeRule
from deeplab.errors import UserError
from deeplab.heads.aspp import ASPP
from deeplab.heads.base import NoContext
from deeplab.layers.conv import ConvNormAct, SeparableConv
from deeplab.layers.resize import ceil_divide
from deeplab.model.eight_bit.arithmetic import (
    Grid,
    QuantisedMap,
    add,
    convolve,
    mean,
    nearest,
    rescale,
    resize,
    to_grid,
)

if TYPE_CHECKING:
    from deeplab.model.network import DeepLab

INPUT = "input"
CLASSIFIER = "classifiers.semantic.convs.0"
CONTEXT = "context"
POOLING = "context.image_pooling"


@dataclass(frozen=True)
class EightBit:
    """The grids of a network's values and weights.

    Attributes:
        grids: of what comes out, by module path: each convolution; each inverted residual with a skip, its
            sum; 'context' and each decoder stage, their concatenation; the image pooling, its mean; and
            'input', normalised pixels.
        weight_scales: float32 [out] or [1], the scale of each convolution's weights, by module path.
        rescaled: paths of the concatenations that bring maps to their own grid; before the others it is an
            operation of its own, which rounds otherwise.
    """

    grids: Mapping[str, Grid]
    weight_scales: Mapping[str, torch.Tensor]
    rescaled: frozenset[str] = frozenset()

    def logits(self, model: DeepLab, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, num_classes, h, w] on the classifier's grid, of normalised images [N, C, H, W]."""
        return _Pass(model, self).logits(images).real

    def resize_logits(self, logits: torch.Tensor, size: Sequence[int], rule: ResizeRule) -> torch.Tensor:
        """Logits [N, num_classes, *size], still on their grid: classes may be exactly equal."""
        return resize(nearest(logits, self.grids[CLASSIFIER]), size, rule).real


@dataclass(frozen=True)
class _Pass:
    model: DeepLab
    tables: EightBit

    def logits(self, images: torch.Tensor) -> QuantisedMap:
        x, end_points = self._backbone(nearest(images, self._grid(INPUT)))
        x = self._context(x)
        if self.model.decoder is not None:
            for index, stride in enumerate(self.model.decoder.strides):
                target = [ceil_divide(side, stride) for side in images.shape[-2:]]
                x = self._stage(f"decoder.stages.{index}", x, end_points[stride], target)
        return self._conv(CLASSIFIER, x)

    def _backbone(self, x: QuantisedMap) -> tuple[QuantisedMap, dict[int, QuantisedMap]]:
        backbone = self.model.backbone
        assert isinstance(backbone, MobileNet)
        x = self._conv("backbone.stem", x)
        inside = []
        for index, block in enumerate(backbone.blocks):
            path = f"backbone.blocks.{index}"
            hidden = x
            for name, layer in block.named_children():
                if isinstance(layer, ConvNormAct) and layer is not block.project:
                    hidden = self._conv(f"{path}.{name}", hidden)
            inside.append(hidden)
            out = self._conv(f"{path}.project", hidden)
            x = add(out, x, self._grid(path)) if block.skip else out
        if isinstance(backbone.last, ConvNormAct):
            x = self._conv("backbone.last", x)
        return x, {stride: inside[index] for stride, index in backbone.end_points.items()}

    def _context(self, x: QuantisedMap) -> QuantisedMap:
        context, branches = self.model.context, []
        if isinstance(context, NoContext):
            return x
        assert isinstance(context, ASPP)
        if context.image_pooling is not None:
            pooled = mean(x, self._grid(POOLING))
            pooled = self._conv(f"{POOLING}.project", pooled)
            branches.append(resize(pooled, tuple(x.steps.shape[-2:]), self.model.config.resize))
        branches.append(self._conv(f"{CONTEXT}.pointwise", x))
        branches += [self._spatial(f"{CONTEXT}.atrous.{index}", x) for index in range(len(context.rates))]
        x = branches[0] if len(branches) == 1 else self._concat(CONTEXT, branches)
        return x if context.projection is None else self._conv(f"{CONTEXT}.projection", x)

    def _stage(
        self, path: str, x: QuantisedMap, low_level: QuantisedMap, size: Sequence[int]
    ) -> QuantisedMap:
        detail = self._conv(f"{path}.project", low_level)
        x = self._concat(path, [resize(part, size, self.model.config.resize) for part in (x, detail)])
        for name, _ in self.model.get_submodule(f"{path}.convs").named_children():
            x = self._spatial(f"{path}.convs.{name}", x)
        return x

    def _concat(self, path: str, parts: list[QuantisedMap]) -> QuantisedMap:
        grid = self._grid(path)
        change = rescale if path in self.tables.rescaled else to_grid
        return QuantisedMap(torch.cat([change(part, grid).steps for part in parts], 1), grid)

    def _spatial(self, path: str, x: QuantisedMap) -> QuantisedMap:
        if isinstance(self.model.get_submodule(path), SeparableConv):
            return self._conv(f"{path}.pointwise", self._conv(f"{path}.depthwise", x))
        return self._conv(path, x)

    def _conv(self, path: str, x: QuantisedMap) -> QuantisedMap:
        module = self.model.get_submodule(path)
        activation = module.activation if isinstance(module, ConvNormAct) else nn.Identity()
        layer = module.conv if isinstance(module, ConvNormAct) else module
        assert isinstance(layer, nn.Conv2d)
        weight_scale = self.tables.weight_scales[path].to(x.steps.device)
        return convolve(x, layer, weight_scale, self._grid(path), activation)

    def _grid(self, path: str) -> Grid:
        if path not in self.tables.grids:
            raise UserError(
                f"{path} has no 8-bit scale: the imported file did not compute it, at its output stride",
                fix="another output stride, or model.eight_bit = False",
            )
        return self.tables.grids[path]
