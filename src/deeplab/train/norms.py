"""Batch norms while training: frozen in one of two meanings, or not at all.

`statistics`: the running statistics are used and left alone, scale and shift go on learning (the reference's
`fine_tune_batch_norm: false`). `all`: scale and shift are fixed too (v3 section 4.1, second stage).

Running statistics are those of crops, with their padding, under weights that moved on; `measure_statistics` takes them
anew, of whole photos and the weights as they are: Wu and Johnson, "Rethinking Batch in BatchNorm" (arXiv 2105.07576,
section 3). Published mobile files have their norms folded into biases, and without norms a network hardly trains:
`put_back` gives them back, as norms that change nothing, and `settle` measures what they would have seen. Folding
has also multiplied each kernel by what its norm did. Behind a norm a kernel's length changes nothing but how fast it
learns, by its inverse square (van Laarhoven, "L2 Regularization versus Batch and Weight Normalization", arXiv
1706.05350): of published files some are a hundredth as long as those that training knows. So they get the length of
fresh ones, and norms divide by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from deeplab.layers.conv import ConvNormAct
from deeplab.model.network import DeepLab

FreezeNorm = Literal["none", "statistics", "all"]
TOGETHER = 8
# photos whose statistics norms get that a file had folded; each layer sees some thousand places of each
SETTLED_BY = 64


def freeze_scales(model: nn.Module, freeze: FreezeNorm) -> None:
    """Exclude scale and shift of every batch norm from learning if `freeze` is "all"; before DDP."""
    for module in _norms(model) if freeze == "all" else ():
        module.requires_grad_(False)


def training_mode(model: nn.Module, freeze: FreezeNorm) -> None:
    """Put `model` into train mode, but frozen norms into eval mode; again after every validation."""
    model.train()
    for module in _norms(model) if freeze != "none" else ():
        module.eval()


@torch.no_grad()
def measure_statistics(model: DeepLab, photos: Iterable[np.ndarray]) -> None:
    """Set every batch norm's running mean and variance to those over all pixels of all photos.

    Photos of one size go through together, `TOGETHER` at a time, each layer normalised by what it sees of them: behind
    layers with old statistics the next would be measured wrong, and such errors multiply with the depth.

    Args:
        model: put into eval mode.
        photos: uint8 [H, W, channels] of any size.
    """
    norms = _norms(model)
    for module, (mean, variance) in _seen_by(model, norms, photos, normalised_by_it=True).items():
        module.get_buffer("running_mean").copy_(mean)
        module.get_buffer("running_var").copy_(variance)


@torch.no_grad()
def put_back(model: DeepLab, given: dict[str, torch.Tensor]) -> list[str]:
    """Make a folded model's biases shifts of norms that change nothing else, and its kernels as long as fresh ones.

    A kernel's length counts by output channel; factors are powers of two, which round nothing.

    Args:
        model: with norms, its weights fresh; not changed.
        given: the folded model's weights; changed to those of `model`.

    Returns:
        names of the norms.
    """
    names = []
    for name, layer in model.named_modules():
        if not isinstance(layer, ConvNormAct) or not isinstance(layer.norm, _BatchNorm):
            continue
        bias, kernel = given.get(f"{name}.conv.bias"), given.get(f"{name}.conv.weight")
        fresh = layer.conv.weight
        if (
            bias is None
            or kernel is None
            or bias.shape != layer.norm.bias.shape
            or kernel.shape != fresh.shape
        ):
            continue
        usual = fresh.flatten(1).norm(dim=1).mean()
        # a kernel that is all but zero stays short
        longer = (usual / kernel.flatten(1).norm(dim=1).clamp(min=2**-10 * usual)).log2().round().exp2()
        del given[f"{name}.conv.bias"]
        given |= {
            f"{name}.conv.weight": kernel * longer[:, None, None, None],
            f"{name}.norm.weight": 1 / longer,
            f"{name}.norm.bias": bias,
            f"{name}.norm.running_mean": torch.zeros_like(bias),
            f"{name}.norm.running_var": torch.ones_like(bias) - layer.norm.eps,
        }
        names.append(f"{name}.norm")
    return names


@torch.no_grad()
def settle(model: DeepLab, names: Sequence[str], photos: Iterable[np.ndarray]) -> None:
    """Give norms that `put_back` made the mean and variance of what they see of photos; the model computes what it did.

    Scale and shift take back what the statistics do, so that training finds norms as it would have left them.

    Args:
        model: put into eval mode.
        names: of the norms.
        photos: uint8 [H, W, channels] of any size.
    """
    norms = [norm for name in names if isinstance(norm := model.get_submodule(name), _BatchNorm)]
    for norm, (mean, variance) in _seen_by(model, norms, photos, normalised_by_it=False).items():
        scale = norm.get_parameter("weight")
        norm.get_parameter("bias").add_(scale * mean)
        scale.mul_((variance + norm.eps).sqrt())
        norm.get_buffer("running_mean").copy_(mean)
        norm.get_buffer("running_var").copy_(variance)


def _seen_by(
    model: DeepLab, norms: Sequence[_BatchNorm], photos: Iterable[np.ndarray], *, normalised_by_it: bool
) -> dict[_BatchNorm, tuple[torch.Tensor, torch.Tensor]]:
    """float64 mean and variance by channel of what each norm is given, over all pixels of all photos."""
    model.eval()
    momenta = [norm.momentum for norm in norms]
    sums: dict[_BatchNorm, torch.Tensor] = {}

    def add(norm: _BatchNorm, inputs: tuple[torch.Tensor]) -> None:
        x = inputs[0]
        total, squares = (each.sum((0, 2, 3), dtype=torch.float64) for each in (x, x.square()))
        own = torch.stack([torch.full_like(total, x.numel() // x.shape[1]), total, squares])
        sums[norm] = sums[norm] + own if norm in sums else own

    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    try:
        for norm in norms:
            # without a momentum no kernel of our own takes the norm's place, which would call no hook
            norm.train(normalised_by_it).momentum = None
        for batch in _of_one_size(photos):
            images = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
            model.pyramid_logits(images.to(model.pixel_mean.device))
    finally:
        for norm, hook, momentum in zip(norms, hooks, momenta, strict=True):
            hook.remove()
            norm.eval().momentum = momentum
    return {
        norm: (mean := total / count, (squares / count - mean.square()).clamp(min=0))
        for norm, (count, total, squares) in sums.items()
    }


def _of_one_size(photos: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    waiting: dict[tuple[int, ...], list[np.ndarray]] = {}
    for photo in photos:
        alike = waiting.setdefault(photo.shape, [])
        alike.append(photo)
        if len(alike) == TOGETHER:
            yield waiting.pop(photo.shape)
    yield from waiting.values()


def _norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
