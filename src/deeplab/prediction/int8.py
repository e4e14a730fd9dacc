"""Which convolutions of a model compute in 8 bits with PyTorch, and the ranges of what they read, from photos.

They are kept in the cache folder, by model and photos, as programs of other runtimes are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from deeplab.errors import UserError
from deeplab.layers.conv import ConvNormAct
from deeplab.model.network import DeepLab
from deeplab.native.int8 import Range
from deeplab.prediction.fold import folded
from deeplab.prediction.runtimes.program import converted
from deeplab.system.writing import write_whole

# with fewer, of inputs or outputs, float32 is as fast
LEAST_CHANNELS = 16
FILE = "ranges.json"


def ranges(model: DeepLab, photos: Sequence[np.ndarray]) -> dict[str, Range]:
    """The lowest and the highest value of each channel that a convolution reads, in all photos, by its layer's name.

    Of those that weigh: dense ones of maps. The first, the classifiers, depthwise ones and those of image pooling stay
    in float32.

    Args:
        model: its norms may be folded already.
        photos: some dozens, uint8 [H, W, channels] of any size, like those that the model will see.

    Raises:
        UserError: the cache folder cannot be written, or the model has no such convolutions.
    """

    def write(path: Path) -> None:
        write_whole(path, json.dumps(_gathered(model, photos)))

    path = converted(model, FILE, runtime="torch int8", convert=write, photos=photos)
    found = {name: Range(*map(torch.tensor, each)) for name, each in json.loads(path.read_text()).items()}
    if not found:
        raise UserError(
            f"this model's convolutions ({model.config.backbone.name}) do not run in 8 bits with PyTorch",
            fix="engine openvino, or float32",
        )
    return found


@torch.no_grad()
def _gathered(model: DeepLab, photos: Sequence[np.ndarray]) -> dict[str, list[list[float]]]:
    plain = folded(model).eval()
    seen: dict[str, Range] = {}

    def look(name: str, x: torch.Tensor) -> None:
        if math.prod(x.shape[-2:]) > 1:
            low, high = x.amin((0, 2, 3)), x.amax((0, 2, 3))
            before = seen.get(name, Range(low, high))
            seen[name] = Range(torch.minimum(low, before.low), torch.maximum(high, before.high))

    for name, layer in plain.named_modules():
        if isinstance(layer, ConvNormAct) and layer.conv.groups == 1:
            channels = layer.conv.in_channels, layer.conv.out_channels
            if min(channels) >= LEAST_CHANNELS:
                layer.conv.register_forward_pre_hook(lambda _, given, name=name: look(name, given[0]))
    for photo in photos:
        plain.low_resolution_logits(torch.from_numpy(photo).permute(2, 0, 1)[None])
    return {name: [each.low.tolist(), each.high.tolist()] for name, each in seen.items()}
