"""Atrous separable convolutions and MobileNets' blocks for inference on the CPU: their convolutions in one pass.

One after another, a block's convolutions write and read channels that nobody else wants, several times as many as come
in and go out.
"""

from __future__ import annotations

from typing import Self, TypeVar

import torch
from torch import nn

from deeplab.config import ResizeRule
from deeplab.layers.conv import ConvNormAct, SeparableConv
from deeplab.layers.inverted_residual import InvertedResidual
from deeplab.layers.packed_conv import ENDINGS, PackedConv
from deeplab.native import dense_conv, depthwise, separable

Layer = TypeVar("Layer", bound=nn.Module)


class PackedSeparableConv(SeparableConv):
    """A separable convolution of packed ones; the same where one pass cannot be."""

    @classmethod
    def of(cls, layer: SeparableConv) -> Self:
        """Shares its parts with `layer`."""
        return with_parts_of(layer, cls)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = in_one_pass(x, None, self.depthwise, self.pointwise)
        return super().forward(x) if found is None else found


class PackedInvertedResidual(InvertedResidual):
    """A MobileNet block of packed convolutions; the same where one pass cannot be."""

    @classmethod
    def of(cls, layer: InvertedResidual) -> Self:
        """Shares its parts with `layer`."""
        return with_parts_of(layer, cls)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(self.squeeze_excite, nn.Identity):
            return super().forward(x)
        other = x if self.skip else None
        found = in_one_pass(self.padded(x), self._expand(), self.depthwise, self.project, other)
        return super().forward(x) if found is None else found

    def widen(self, x: torch.Tensor) -> torch.Tensor:
        found = in_one_pass(self.padded(x), self._expand(), self.depthwise, None) if self._expand() else None
        return super().widen(x) if found is None else found

    def _expand(self) -> ConvNormAct | None:
        return None if isinstance(self.expand, nn.Identity) else self.expand


def in_one_pass(
    x: torch.Tensor,
    expand: nn.Module | None,
    filtering: nn.Module,
    project: nn.Module | None,
    other: torch.Tensor | None = None,
    behind: tuple[torch.Tensor, ResizeRule] | None = None,
) -> torch.Tensor | None:
    """`project(filtering(expand(x)))`, plus `other`, by `native.separable`; None where that cannot be.

    x's channels may come `behind` those of a map that is resized to x's size by a rule.
    """
    layers = [None if layer is None else _packed(layer) for layer in (expand, filtering, project)]
    first, middle, last = layers
    chain = [layer for layer in layers if layer is not None]
    if len(chain) < sum(layer is not None for layer in (expand, filtering, project)):
        return None
    if not _fits(x, chain, middle, other, None if behind is None else behind[0]):
        return None
    return separable.separable_conv(
        x,
        _weights(first),
        middle.laid_out((separable,), lambda: separable.by_tap(middle.weight, middle.bias)),
        _weights(last),
        place=middle.place_of(x),
        endings=tuple(ENDINGS[type(layer.activation)] if layer else dense_conv.LINEAR for layer in layers),
        added=other,
        behind=behind,
    )


def _weights(layer: PackedConv | None) -> dense_conv.Packed | None:
    if layer is None:
        return None
    return layer.laid_out((dense_conv,), lambda: dense_conv.pack(layer.weight, layer.bias))


def _packed(layer: nn.Module) -> PackedConv | None:
    """The packed convolution that does all the layer's work, if it is one."""
    if isinstance(layer, ConvNormAct):
        whole = isinstance(layer.norm, nn.Identity) and isinstance(layer.activation, nn.Identity)
        layer = layer.conv if whole else None
    return layer if isinstance(layer, PackedConv) else None


def _fits(
    x: torch.Tensor,
    chain: list[PackedConv],
    middle: PackedConv,
    other: torch.Tensor | None,
    small: torch.Tensor | None,
) -> bool:
    pointwise = [layer for layer in chain if layer is not middle]
    first = x.shape[1] + (0 if small is None else small.shape[1])
    channels = [first, *(layer.out_channels for layer in chain[:-1])]
    return (
        all(
            layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.groups == 1
            for layer in pointwise
        )
        and all(type(layer.activation) in ENDINGS and layer.can_run(x) for layer in chain)
        and [layer.in_channels for layer in chain] == channels
        and middle.groups == middle.in_channels == middle.out_channels
        and middle.kernel_size[0] == middle.kernel_size[1]
        and middle.kernel_size[0] in depthwise.KERNELS
        and dense_conv.can_run(x)
        and (small is None or (dense_conv.can_run(small) and small.shape[0] == x.shape[0]))
        and (other is None or other.is_contiguous(memory_format=torch.channels_last))
        and separable.library() is not None
    )


def with_parts_of(layer: nn.Module, kind: type[Layer]) -> Layer:
    """A module of another kind that shares all that `layer` holds."""
    made = kind.__new__(kind)
    made.__dict__.update(vars(layer))
    return made
