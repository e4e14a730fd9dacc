"""torchvision's MobileNetV2 weights straight into a backbone, as a start for training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from deeplab.errors import UserError
from deeplab.importers.fill import fill
from deeplab.importers.torch.backbones import mobilenet_v2
from deeplab.importers.torch.layers import COUNTER, layer_weights


def load_mobilenet_v2(backbone: nn.Module, state: Mapping[str, torch.Tensor], *, source: str) -> int:
    """Fill a MobileNetV2 backbone; the file's last convolution and classifier stay unused.

    Args:
        backbone: `deeplab.backbones.MobileNetV2`.
        state: keys `features.N...` under any version's numbers.
        source: named in errors.

    Returns:
        the number of layers filled.

    Raises:
        UserError: other keys, or shapes of another width.
    """
    try:
        _, layers = mobilenet_v2([f"features.{index}." for index in range(18)], state)
        ours = {path.removeprefix("backbone."): layer for path, layer in layers.items()}
        weights, _ = layer_weights(backbone, ours, state)
    except UserError as error:
        raise UserError(f"{source}: {error}; give torchvision's MobileNetV2 weights") from None
    counters = {key: value for key, value in backbone.state_dict().items() if key.endswith(COUNTER)}
    fill(backbone, counters | weights, source=source)
    return len(layers)
