"""Classification weights in PyTorch order as starting points for backbones.

torchvision's MobileNetV2 (and every package that keeps its layout) lists its layers in forward order, so
convolutions and norms pair up one by one; numbering changed between versions, the order never did. Such
weights mean symmetric padding, BN eps 1e-5 and ImageNet's mean and deviation: `TORCH_*` below.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from deeplab.config import NormConfig, PixelConfig
from deeplab.errors import UserError
from deeplab.layers.conv import ConvNormAct

TORCH_NORM = NormConfig(eps=1e-5, momentum=0.1)
TORCH_PIXELS = PixelConfig(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def load_mobilenet_v2(backbone: nn.Module, state: Mapping[str, torch.Tensor], *, source: str) -> int:
    """Fill a MobileNetV2 backbone; the file's last convolution and classifier stay unused.

    Args:
        backbone: `deeplab.backbones.MobileNetV2`.
        state: keys `features.N...` in forward order.
        source: named in errors.

    Returns:
        the number of layers filled.

    Raises:
        UserError: other keys, or shapes of another width.
    """
    wanted = [f"features.{index}." for index in range(18)]
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        if key.startswith(tuple(wanted)) and not key.endswith("num_batches_tracked"):
            layer, _, leaf = key.rpartition(".")
            layers.setdefault(layer, {})[leaf] = value
    blocks = [module for module in backbone.modules() if isinstance(module, ConvNormAct)]
    pairs = list(layers.values())
    if len(pairs) != 2 * len(blocks):
        raise UserError(
            f"{source} holds {len(pairs)} layers named features.N, MobileNetV2 has {2 * len(blocks)}; "
            "give torchvision-order MobileNetV2 weights"
        )
    for block, conv, norm in zip(blocks, pairs[::2], pairs[1::2], strict=True):
        for module, values in ((block.conv, conv), (block.norm, norm)):
            _copy(module, values, source)
    return len(blocks)


def _copy(module: nn.Module, values: dict[str, torch.Tensor], source: str) -> None:
    own = module.state_dict()
    for leaf, value in values.items():
        if leaf not in own or own[leaf].shape != value.shape:
            expected = tuple(own[leaf].shape) if leaf in own else "nothing"
            raise UserError(f"{source}: {leaf} has shape {tuple(value.shape)}, the backbone wants {expected}")
        with torch.no_grad():
            own[leaf].copy_(value)
