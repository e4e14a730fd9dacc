"""What a quantised MobileNetV2 DeepLab computes between photo and logits, step by step in 8 bits.

The model keeps its real weights; here are the grids that its values are rounded to. Every layer is read from
the model as it is now, so output stride and input size are free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from deeplab.config import ResizeRule
from deeplab.errors import UserError
from deeplab.layers.conv import ConvNormAct, SeparableConv
from deeplab.layers.resize import ceil_divide
from deeplab.model.eight_bit.arithmetic import (
    Grid,
    QuantisedMap,
    add,
    convolve,
    mean,
    nearest,
    resize,
    to_grid,
)

if TYPE_CHECKING:
    from deeplab.model.network import DeepLab

INPUT = "input"
CLASSIFIER = "classifiers.semantic.convs.0"
CONTEXT = "context"


@dataclass(frozen=True)
class EightBit:
    """The grids of a network's values and weights.

    Attributes:
        grids: of what comes out, by module path: each convolution; each inverted residual with a skip, its
            sum; 'context' and each decoder stage, their concatenation; and 'input', normalised pixels.
        weight_scales: float32 [out] or [1], the scale of each convolution's weights, by module path.
    """

    grids: Mapping[str, Grid]
    weight_scales: Mapping[str, torch.Tensor]

    def logits(self, model: DeepLab, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, num_classes, h, w] on the classifier's grid, of normalised images [N, C, H, W]."""
        return _Pass(model, self).logits(images).real

    def resize_logits(self, logits: torch.Tensor, size: tuple[int, int], rule: ResizeRule) -> torch.Tensor:
        """Logits [N, num_classes, *size], still on their grid: classes may be exactly equal."""
        return resize(nearest(logits, self.grids[CLASSIFIER]), size, rule).real


@dataclass(frozen=True)
class _Pass:
    model: DeepLab
    tables: EightBit

    def logits(self, images: torch.Tensor) -> QuantisedMap:
        size = tuple(images.shape[-2:])
        x, end_points = self._backbone(nearest(images, self._grid(INPUT)))
        x = self._context(x)
        if self.model.decoder is not None:
            for index, stride in enumerate(self.model.decoder.strides):
                target = tuple(ceil_divide(side, stride) for side in size)
                x = self._stage(f"decoder.stages.{index}", x, end_points[stride], target)
        return self._conv(CLASSIFIER, x)

    def _backbone(self, x: QuantisedMap) -> tuple[QuantisedMap, dict[int, QuantisedMap]]:
        backbone = self.model.backbone
        x = self._conv("backbone.stem", x)
        inside = []
        for index, block in enumerate(backbone.blocks):
            path = f"backbone.blocks.{index}"
            hidden = x if isinstance(block.expand, nn.Identity) else self._conv(f"{path}.expand", x)
            inside.append(self._conv(f"{path}.depthwise", hidden))
            out = self._conv(f"{path}.project", inside[-1])
            x = add(out, x, self._grid(path)) if block.skip else out
        return x, {stride: inside[index] for stride, index in backbone.end_points.items()}

    def _context(self, x: QuantisedMap) -> QuantisedMap:
        if self.model.config.context.kind == "none":
            return x
        context, branches = self.model.context, []
        if context.image_pooling is not None:
            pooled = self._conv(f"{CONTEXT}.image_pooling.project", mean(x))
            branches.append(resize(pooled, tuple(x.steps.shape[-2:]), self.model.config.resize))
        branches.append(self._conv(f"{CONTEXT}.pointwise", x))
        branches += [self._spatial(f"{CONTEXT}.atrous.{index}", x) for index in range(len(context.rates))]
        x = branches[0] if len(branches) == 1 else self._concat(CONTEXT, branches)
        return x if context.projection is None else self._conv(f"{CONTEXT}.projection", x)

    def _stage(
        self, path: str, x: QuantisedMap, low_level: QuantisedMap, size: tuple[int, int]
    ) -> QuantisedMap:
        detail = self._conv(f"{path}.project", low_level)
        x = self._concat(path, [resize(part, size, self.model.config.resize) for part in (x, detail)])
        for index in range(len(self.model.get_submodule(f"{path}.convs"))):
            x = self._spatial(f"{path}.convs.{index}", x)
        return x

    def _concat(self, path: str, parts: list[QuantisedMap]) -> QuantisedMap:
        grid = self._grid(path)
        return QuantisedMap(torch.cat([to_grid(part, grid).steps for part in parts], 1), grid)

    def _spatial(self, path: str, x: QuantisedMap) -> QuantisedMap:
        if isinstance(self.model.get_submodule(path), SeparableConv):
            return self._conv(f"{path}.pointwise", self._conv(f"{path}.depthwise", x))
        return self._conv(path, x)

    def _conv(self, path: str, x: QuantisedMap) -> QuantisedMap:
        module = self.model.get_submodule(path)
        layer, activation = (
            (module.conv, module.activation) if isinstance(module, ConvNormAct) else (module, nn.Identity())
        )
        weight_scale = self.tables.weight_scales[path].to(x.steps.device)
        return convolve(x, layer, weight_scale, self._grid(path), activation)

    def _grid(self, path: str) -> Grid:
        if path not in self.tables.grids:
            raise UserError(
                f"{path} has no 8-bit scale: the imported file did not compute it, at its output stride; "
                "fix: another output stride, or model.eight_bit = False"
            )
        return self.tables.grids[path]
