"""Activation checkpointing: less memory for more time (arXiv 1604.06174).

What lies inside a backbone's blocks is forgotten after the forward pass and computed again in the backward
pass. Blocks have parts with names, as the decoder taps them in the middle; each part is one piece.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from deeplab.backbones.nas_cell import Cell
from deeplab.backbones.resnet import Unit
from deeplab.backbones.xception import XceptionModule
from deeplab.backbones.xception_original import OriginalModule
from deeplab.errors import UserError
from deeplab.layers.inverted_residual import MobileBlock
from deeplab.model.network import DeepLab

# the parts of each kind of block that its backbone calls
PARTS: dict[type[nn.Module], tuple[str, ...]] = {
    MobileBlock: ("widen", "narrow"),
    Unit: ("residual",),
    XceptionModule: ("begin", "finish"),
    OriginalModule: ("filter", "finish"),
    Cell: ("forward",),
}


def recompute_activations(model: DeepLab) -> None:
    """Make every block of the backbone forget its inner activations; copies of the model must be made before.

    Raises:
        UserError: a backbone without such blocks.
    """
    pieces = [
        (module, part)
        for module in model.backbone.modules()
        for kind, parts in PARTS.items()
        if isinstance(module, kind)
        for part in parts
    ]
    pieces += [
        (stage, "forward") for stage in getattr(model.backbone, "stages", ()) if type(stage) is nn.Sequential
    ]
    if not pieces:
        raise UserError(
            f"optimise.recompute: {model.config.backbone.name} has no blocks to recompute; set it to false"
        )
    for module, part in pieces:
        setattr(module, part, _forgetting(module, getattr(module, part)))


def _forgetting(module: nn.Module, compute: Callable) -> Callable:
    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), statistics_unchanged(module)

    @functools.wraps(compute)
    def piece(*inputs: object) -> object:
        if not module.training:
            return compute(*inputs)
        return checkpoint(compute, *inputs, use_reentrant=False, context_fn=contexts)

    return piece


@contextmanager
def statistics_unchanged(module: nn.Module) -> Iterator[None]:
    """Within, batch norms of `module` compute as ever but leave their running statistics alone."""
    with ExitStack() as stack:
        for norm in module.modules():
            if isinstance(norm, _BatchNorm):
                stack.enter_context(_silent(norm))
        yield


@contextmanager
def _silent(norm: _BatchNorm) -> Iterator[None]:
    momentum, counter = norm.momentum, norm.num_batches_tracked
    norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        norm.momentum, norm.num_batches_tracked = momentum, counter
