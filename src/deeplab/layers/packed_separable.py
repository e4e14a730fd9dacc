"""Atrous separable convolutions and MobileNets' blocks for inference on the CPU: their convolutions in one pass.

One after another, a block's convolutions write and read channels that nobody else wants, several times as many as come
in and go out.
"""

from __future__ import annotations

from typing import Self, TypeVar

import torch
from torch import nn

from deeplab.layers.conv import ConvNormAct, SeparableConv
from deeplab.layers.inverted_residual import InvertedResidual
from deeplab.layers.packed_conv import BOUNDS, PackedConv
from deeplab.native import dense_conv, depthwise, separable

Layer = TypeVar("Layer", bound=nn.Module)


class PackedSeparableConv(SeparableConv):
    """A separable convolution of packed ones; the same where one pass cannot be."""

    @classmethod
    def of(cls, layer: SeparableConv) -> Self:
        """Shares its parts with `layer`."""
        return _with_parts_of(layer, cls)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = in_one_pass(x, None, self.depthwise, self.pointwise)
        return super().forward(x) if found is None else found


class PackedInvertedResidual(InvertedResidual):
    """A MobileNet block of packed convolutions; the same where one pass cannot be."""

    @classmethod
    def of(cls, layer: InvertedResidual) -> Self:
        """Shares its parts with `layer`."""
        return _with_parts_of(layer, cls)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(self.squeeze_excite, nn.Identity):
            return super().forward(x)
        expand = None if isinstance(self.expand, nn.Identity) else self.expand
        other = x if self.skip else None
        found = in_one_pass(self.padded(x), expand, self.depthwise, self.project, other)
        return super().forward(x) if found is None else found


def in_one_pass(
    x: torch.Tensor,
    expand: nn.Module | None,
    filtering: nn.Module,
    project: nn.Module,
    other: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """`project(filtering(expand(x)))`, plus `other`, by `native.separable`; None where that cannot be."""
    layers = [_packed(layer) for layer in (expand, filtering, project) if layer is not None]
    if not _fits(x, layers, other):
        return None
    *before, middle, last = layers
    packed = [
        layer.laid_out((dense_conv,), lambda layer=layer: dense_conv.pack(layer.weight, layer.bias))
        for layer in (*before, last)
    ]
    bounds = [BOUNDS[type(layer.activation)] for layer in layers]
    return separable.separable_conv(
        x,
        packed[0] if before else None,
        middle.laid_out((separable,), lambda: separable.by_tap(middle.weight, middle.bias)),
        packed[-1],
        place=middle.place_of(x),
        bounds=(bounds[0] if before else dense_conv.UNBOUNDED, bounds[-2], bounds[-1]),
        added=other,
    )


def _packed(layer: nn.Module) -> PackedConv | None:
    """The packed convolution that does all the layer's work, if it is one."""
    if isinstance(layer, ConvNormAct):
        whole = isinstance(layer.norm, nn.Identity) and isinstance(layer.activation, nn.Identity)
        layer = layer.conv if whole else None
    return layer if isinstance(layer, PackedConv) else None


def _fits(x: torch.Tensor, layers: list[PackedConv | None], other: torch.Tensor | None) -> bool:
    if any(layer is None or type(layer.activation) not in BOUNDS for layer in layers):
        return False
    *_, middle, last = layers
    pointwise = [layer for layer in layers if layer is not middle]
    return (
        all(
            layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.groups == 1
            for layer in pointwise
        )
        and middle.groups == middle.in_channels == middle.out_channels == last.in_channels
        and middle.kernel_size[0] == middle.kernel_size[1]
        and middle.kernel_size[0] in depthwise.KERNELS
        and layers[0].in_channels == x.shape[1]
        and all(layer.can_run(x) for layer in layers)
        and dense_conv.can_run(x)
        and (other is None or other.is_contiguous(memory_format=torch.channels_last))
        and separable.library() is not None
    )


def _with_parts_of(layer: nn.Module, kind: type[Layer]) -> Layer:
    made = kind.__new__(kind)
    made.__dict__.update(vars(layer))
    return made
