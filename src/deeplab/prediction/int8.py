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
from deeplab.layers.conv import AtrousConv2d
from deeplab.model.network import DeepLab
from deeplab.native.int8 import Range
from deeplab.prediction.fold import folded
from deeplab.prediction.runtimes.program import converted
from deeplab.system.writing import write_whole

# with fewer inputs float32 is as fast
LEAST_CHANNELS = 16
FILE = "ranges.json"


def ranges(model: DeepLab, photos: Sequence[np.ndarray]) -> dict[str, Range]:
    """Of each channel that a convolution reads, what values it has in these photos; by the convolution's name.

    Of those that weigh: dense ones of maps. The first, depthwise ones and those of image pooling stay in float32.

    Args:
        model: its norms may be folded already.
        photos: some dozens, uint8 [H, W, channels] of any size, like those that the model will see.

    Raises:
        UserError: the cache folder cannot be written, or the model has no such convolutions.
    """

    def write(path: Path) -> None:
        write_whole(path, json.dumps(_gathered(model, photos)))

    path = converted(model, FILE, runtime="torch int8, by channel", convert=write, photos=photos)
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
    seen: dict[str, list[torch.Tensor]] = {}

    def look(name: str, x: torch.Tensor) -> None:
        if math.prod(x.shape[-2:]) > 1:
            axes = (0, 2, 3)
            seen.setdefault(name, []).append(torch.stack([x.amin(axes), x.amax(axes), x.mean(axes)]))

    for name, layer in plain.named_modules():
        if isinstance(layer, AtrousConv2d) and layer.groups == 1 and layer.in_channels >= LEAST_CHANNELS:
            layer.register_forward_pre_hook(lambda _, given, name=name: look(name, given[0]))
    for photo in photos:
        plain.low_resolution_logits(torch.from_numpy(photo).permute(2, 0, 1)[None])
    found = {}
    for name, each in seen.items():
        low, high, mean = torch.stack(each).unbind(1)
        found[name] = [low.amin(0).tolist(), high.amax(0).tolist(), mean.mean(0).tolist()]
    return found
