"""Peers' networks, with made-up weights that give label maps of many classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Logits = Callable[[torch.Tensor], torch.Tensor]


def build(network: str, classes: int) -> nn.Module:
    """The peer's module by its name in `cases.TITLES`, in eval mode, with its own random weights."""
    # also defines the names that torchvision needs beside a CPU build of torch
    from support.torch_comparison import peer

    library, _, rest = network.partition("-")
    head, _, backbone = rest.partition("-")
    if library == "smp":
        smp = peer("segmentation_models_pytorch")
        heads = {"v3": smp.DeepLabV3, "v3plus": smp.DeepLabV3Plus}
        return heads[head](backbone, encoder_weights=None, classes=classes).eval()
    if library == "torchvision":
        models = peer("torchvision.models.segmentation")
        function = getattr(models, f"deeplabv3_{backbone}")
        return function(weights=None, weights_backbone=None, num_classes=classes, aux_loss=False).eval()
    transformers = peer("transformers")
    config = transformers.MobileNetV2Config(output_stride=16, num_labels=classes)
    return transformers.MobileNetV2ForSemanticSegmentation(config).eval()


def logits_of(network: str, model: nn.Module) -> Logits:
    """Normalised photos to logits at the photos' size; of transformers, by the rule that its weights were made with."""
    if network.startswith("torchvision"):
        return lambda x: model(x)["out"]
    if network.startswith("transformers"):
        return lambda x: nn.functional.interpolate(
            model(x).logits, size=x.shape[-2:], mode="bilinear", align_corners=True
        )
    return model


@torch.no_grad()
def make_up_weights(model: nn.Module, logits: Logits, images: torch.Tensor, *, classes: int) -> None:
    """Seeded weights; norms fit `images`, and the classifier gives every class its share of them.

    Without the latter two, one class would win everywhere: nothing to compare, and upsampling without edges.
    """
    from support.torch_comparison import randomise

    randomise(model, seed=1)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_pre_hook(_fit)
    logits(images)
    for norm in norms:
        norm._forward_pre_hooks.clear()
    classifier = [module for module in model.modules() if isinstance(module, nn.Conv2d)][-1]
    if classifier.out_channels != classes:
        raise ValueError(f"the last convolution has {classifier.out_channels} channels, not {classes}")
    found = logits(images)
    mean, deviation = found.mean((0, 2, 3)), found.std((0, 2, 3)).clamp(min=1e-6)
    classifier.weight.div_(deviation[:, None, None, None])
    classifier.bias.sub_(mean).div_(deviation)


def _fit(norm: nn.BatchNorm2d, inputs: tuple[Any, ...]) -> None:
    x = inputs[0]
    if x.shape[2] * x.shape[3] > 1:
        norm.running_mean.copy_(x.mean((0, 2, 3)))
        norm.running_var.copy_(x.var((0, 2, 3)).clamp(min=1e-4))
