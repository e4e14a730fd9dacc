"""First values of weights, by part of the model (reference fact 2.1)."""

from __future__ import annotations

import math

from torch import nn

from deeplab.heads.classifier import Classifier
from deeplab.layers.conv import AtrousConv2d


def initialise(model: nn.Module) -> None:
    """Fill every convolution: He fan-in in the backbone, the reference's deviations in the heads.

    Heads: depthwise sigma 0.33, pointwise 0.06, classifier 0.01, all truncated normal; biases zero.
    MobileNets and Xception use a sigma of 0.09 in the reference; He's rule replaces it here, since it does
    not depend on width.
    """
    for name, module in model.named_modules():
        if isinstance(module, AtrousConv2d):
            sigma = _sigma(module, in_backbone=name.startswith("backbone"))
            nn.init.trunc_normal_(module.weight, std=sigma, a=-2 * sigma, b=2 * sigma)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, Classifier):
            for conv in module.convs:
                nn.init.trunc_normal_(conv.weight, std=0.01, a=-0.02, b=0.02)


def _sigma(conv: AtrousConv2d, *, in_backbone: bool) -> float:
    fan_in = conv.weight[0].numel()
    depthwise = conv.groups == conv.in_channels > 1
    if in_backbone or (conv.kernel_size != (1, 1) and not depthwise):
        return math.sqrt(2.0 / fan_in)
    return 0.33 if depthwise else 0.06
