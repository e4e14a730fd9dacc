"""Atrous separable convolutions and MobileNets' blocks for inference on the CPU: their convolutions in one pass.

One after another, a block's convolutions write and read channels that nobody else wants, several times as many as come
in and go out.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, Self, TypeVar

import torch
from torch import nn

from deeplab.config import ResizeRule
from deeplab.layers.conv import ConvNormAct, SeparableConv
from deeplab.layers.int8_conv import Int8Conv
from deeplab.layers.inverted_residual import InvertedResidual
from deeplab.layers.packed_conv import ENDINGS, PackedConv
from deeplab.native import dense_conv, depthwise, int8, separable, upsampled
from deeplab.native.winograd import Ending

Layer = TypeVar("Layer", bound=nn.Module)


class Chain(NamedTuple):
    """Convolutions that may be one pass: 1x1, depthwise, 1x1; either 1x1 may be None."""

    expand: PackedConv | None
    filtering: PackedConv
    project: PackedConv | None
    endings: tuple[Ending, Ending, Ending]
    # one more 1x1 convolution behind them
    last: PackedConv | None = None


class PackedSeparableConv(SeparableConv):
    """A separable convolution of packed ones; the same where one pass cannot be."""

    chain: Chain | None

    @classmethod
    def of(cls, layer: SeparableConv) -> Self:
        """Shares its parts with `layer`."""
        made = with_parts_of(layer, cls)
        made.chain = chain_of(None, layer.depthwise, layer.pointwise)
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = in_one_pass(x, self.chain)
        if found is not None:
            return found
        found = super().forward(x)
        return found if self.chain is None or self.chain.last is None else self.chain.last(found)

    def joins(self, last: PackedConv) -> bool:
        """Whether it has taken this convolution, which alone reads its outputs, for its own end."""
        if self.chain is None or last.kernel_size != (1, 1):
            return False
        if isinstance(self.chain.project, Int8Conv) != isinstance(last, Int8Conv):
            return False
        self.chain = self.chain._replace(last=last)
        return True


class PackedInvertedResidual(InvertedResidual):
    """A MobileNet block of packed convolutions; the same where one pass cannot be."""

    whole: Chain | None
    wide: Chain | None

    @classmethod
    def of(cls, layer: InvertedResidual) -> Self:
        """Shares its parts with `layer`."""
        made = with_parts_of(layer, cls)
        expands, squeezes = (
            not isinstance(each, nn.Identity) for each in (layer.expand, layer.squeeze_excite)
        )
        expand = layer.expand if expands else None
        made.whole = None if squeezes else chain_of(expand, layer.depthwise, layer.project)
        made.wide = chain_of(expand, layer.depthwise, None) if expands else None
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = in_one_pass(self.padded(x), self.whole, x if self.skip else None)
        return super().forward(x) if found is None else found

    def widen(self, x: torch.Tensor) -> torch.Tensor:
        found = in_one_pass(self.padded(x), self.wide)
        return super().widen(x) if found is None else found


def chain_of(expand: nn.Module | None, filtering: nn.Module, project: nn.Module | None) -> Chain | None:
    """The packed convolutions of three layers, if they do all that the layers do and `native.separable` knows them."""
    layers = [layer for layer in (expand, filtering, project) if layer is not None]
    given = [packed for packed in map(packed_part, layers) if packed and type(packed.activation) in ENDINGS]
    if len(given) < len(layers):
        return None
    middle = given[expand is not None]
    first, last = given[0] if expand else None, given[-1] if project else None
    fits = (
        all(layer.kernel_size == (1, 1) and layer.stride == (1, 1) for layer in (first, last) if layer)
        and all(layer.groups == 1 for layer in (first, last) if layer)
        and all(one.out_channels == other.in_channels for one, other in pairwise(given))
        and middle.groups == middle.in_channels == middle.out_channels
        and middle.kernel_size[0] == middle.kernel_size[1]
        and middle.kernel_size[0] in depthwise.KERNELS
    )
    return Chain(first, middle, last, (_ending(first), _ending(middle), _ending(last))) if fits else None


def in_one_pass(
    x: torch.Tensor,
    chain: Chain | None,
    other: torch.Tensor | None = None,
    behind: tuple[torch.Tensor, ResizeRule] | None = None,
) -> torch.Tensor | None:
    """`project(filtering(expand(x)))`, plus `other`, in one pass, and the chain's `last`; None where that cannot be.

    By `native.separable`, `native.upsampled` or `native.int8`. x's channels may come `behind` those of a map that is
    resized to x's size by a rule.
    """
    if chain is not None and any(isinstance(each, Int8Conv) for each in (chain.expand, chain.project)):
        return _in_bytes(x, chain, other, behind)
    if chain is None or not _can_run(x, chain, other, None if behind is None else behind[0]):
        return None
    if behind is not None and _is_upsampled(x, chain, behind[0]):
        return _upsampled(x, chain, *behind)
    middle = chain.filtering
    found = separable.separable_conv(
        x,
        _weights(chain.expand),
        middle.laid_out((separable,), lambda: separable.by_tap(middle.weight, middle.bias)),
        _weights(chain.project),
        place=middle.place_of(x),
        endings=chain.endings,
        added=other,
        behind=behind,
    )
    return found if chain.last is None else chain.last(found)


def _is_upsampled(x: torch.Tensor, chain: Chain, small: torch.Tensor) -> bool:
    """Whether the projection is computed before its input is upsampled, where `_can_run` says that one pass can be."""
    middle = chain.filtering
    return (
        chain.project is not None
        and chain.endings[1] == Ending()
        and middle.kernel_size == (3, 3)
        and middle.stride == (1, 1)
        # of halves channels are multiplied in pairs
        and (
            x.dtype == torch.float32
            or (small.shape[1] % 2 == 0 and (chain.last is None or chain.last.in_channels % 2 == 0))
        )
        and upsampled.saves_products(small, (x.shape[2], x.shape[3]))
        and upsampled.KERNEL.ready()
    )


def _upsampled(x: torch.Tensor, chain: Chain, small: torch.Tensor, rule: ResizeRule) -> torch.Tensor:
    middle, project = chain.filtering, chain.project
    assert project is not None
    packed = project.laid_out(
        (upsampled, small.shape[1], *middle.state()),
        lambda: upsampled.pack(middle.weight, middle.bias, project.weight, project.bias, small.shape[1]),
    )
    return upsampled.upsampled_conv(
        small, rule, x, packed, middle.place_of(x), chain.endings[2], _weights(chain.last)
    )


def _in_bytes(
    x: torch.Tensor,
    chain: Chain,
    other: torch.Tensor | None,
    behind: tuple[torch.Tensor, ResizeRule] | None,
) -> torch.Tensor | None:
    expand, middle, project = chain.expand, chain.filtering, chain.project
    if not (expand is None or isinstance(expand, Int8Conv)) or not int8.KERNEL.ready():
        return None
    if not (project is None or isinstance(project, Int8Conv)):
        return None
    last = chain.last
    if x.dtype != torch.float32 or not _fits(x, chain, other, None if behind is None else behind[0]):
        return None
    return int8.int8_separable(
        x,
        None if expand is None else expand.in_bytes(),
        middle.laid_out((separable,), lambda: separable.by_tap(middle.weight, middle.bias)),
        None if project is None else project.in_bytes(),
        place=middle.place_of(x),
        endings=chain.endings,
        added=other,
        behind=behind,
        last=last.in_bytes() if isinstance(last, Int8Conv) else None,
    )


def _weights(layer: PackedConv | None) -> dense_conv.Packed | None:
    if layer is None:
        return None
    return layer.laid_out((dense_conv,), lambda: dense_conv.pack(layer.weight, layer.bias))


def _ending(layer: PackedConv | None) -> Ending:
    return Ending() if layer is None else ENDINGS[type(layer.activation)]


def packed_part(layer: nn.Module) -> PackedConv | None:
    """The packed convolution that does all the layer's work, if it is one."""
    if isinstance(layer, ConvNormAct):
        whole = isinstance(layer.norm, nn.Identity) and isinstance(layer.activation, nn.Identity)
        return packed_part(layer.conv) if whole else None
    return layer if isinstance(layer, PackedConv) else None


def _can_run(x: torch.Tensor, chain: Chain, other: torch.Tensor | None, small: torch.Tensor | None) -> bool:
    can_run = dense_conv.can_run if x.dtype == torch.float32 else dense_conv.can_run_halves
    return (
        _fits(x, chain, other, small)
        and can_run(x)
        and (x.dtype == torch.float32 or chain.filtering.in_channels % 2 == 0)
        and (small is None or can_run(small))
        and separable.KERNEL.ready()
    )


def _fits(x: torch.Tensor, chain: Chain, other: torch.Tensor | None, small: torch.Tensor | None) -> bool:
    channels = x.shape[1] + (0 if small is None else small.shape[1])
    first = chain.filtering if chain.expand is None else chain.expand
    maps = [each for each in (x, other, small) if each is not None]
    return (
        first.in_channels == channels
        and first.can_run(x)
        and all(each.is_contiguous(memory_format=torch.channels_last) for each in maps)
        and all(each.dtype == x.dtype for each in maps)
        and (small is None or small.shape[0] == x.shape[0])
    )


def with_parts_of(layer: nn.Module, kind: type[Layer]) -> Layer:
    """A module of another kind that shares all that `layer` holds."""
    made = kind.__new__(kind)
    made.__dict__.update(vars(layer))
    return made
