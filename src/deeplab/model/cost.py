"""What a model costs: parameters and multiply-adds, counted on a model without memory.

A multiply-add is one multiplication and one addition inside a convolution (or linear layer), which is what
the reference's zoo counts; norms, activations, poolings and resizes are left out: about 1 % of the whole.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from deeplab.config import DeepLabConfig
from deeplab.model.network import DeepLab


class Cost(NamedTuple):
    """Learned numbers (statistics of norms not among them), and multiply-adds of one photo."""

    parameters: int
    multiply_adds: int


def cost(config: DeepLabConfig, size: tuple[int, int], *, output_stride: int | None = None) -> Cost:
    """Count both on PyTorch's meta device: nothing is computed and no memory is taken.

    Args:
        size: height and width of the photo in pixels; 513, 513 for VOC, 1025, 2049 for Cityscapes.
        output_stride: in place of the config's own.

    Raises:
        ValueError: an output stride the backbone cannot reach.
    """
    with torch.device("meta"):
        model = DeepLab(config).eval()
    if output_stride is not None:
        model.output_stride = output_stride
    counted: list[int] = []

    def count(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        counted.append(output.numel() * layer.weight[0].numel())

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        model(torch.empty(1, config.backbone.in_channels, *size, device="meta"))
    return Cost(sum(parameter.numel() for parameter in model.parameters()), sum(counted))
