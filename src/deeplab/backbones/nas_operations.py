"""What the edges of a searched cell compute, and drop path.

Operations: reference fact 2.9; names are the reference's, 'separable_5x5', 'atrous_3x3', 'max_pool_3x3',
'none'. Resizes align corners whatever the model's rule is: the cells' sizes follow from it. Drop path:
arXiv 1605.07648, whole images at a time as in arXiv 1707.07012, with the reference's schedule.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from deeplab.layers.conv import AtrousConv2d, ConvNormAct
from deeplab.layers.norm import NormLayer
from deeplab.layers.pool import MaxPool
from deeplab.layers.resize import resize_bilinear


class DropPath(nn.Module):
    """In training, zeroes whole images of a batch at random and scales the others up.

    Args:
        keep: chance that an image passes at the end of training; it falls from 1 as `progress` goes
            from 0 to 1.

    Attributes:
        progress: share of training done, set by `set_drop_path_progress`; 1 where nobody sets it.
    """

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep = keep
        self.progress = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keep = 1.0 - self.progress * (1.0 - self.keep)
        if not self.training or keep >= 1.0:
            return x
        passes = torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device) < keep
        return x * (passes / keep).to(x.dtype)


def set_drop_path_progress(model: nn.Module, progress: float) -> None:
    """Tell every `DropPath` of `model` the share of training done; values above 1 count as 1.

    Raises:
        ValueError: a negative share.
    """
    if progress < 0:
        raise ValueError(f"the share of training done lies between 0 and 1; found {progress}")
    for module in model.modules():
        if isinstance(module, DropPath):
            module.progress = min(1.0, progress)


class RectifiedSeparable(nn.Module):
    """ReLU, K x K depthwise and 1x1 without a norm between them, norm."""

    def __init__(self, channels: int, *, kernel: int, stride: int, norm: NormLayer | None) -> None:
        super().__init__()
        self.depthwise = AtrousConv2d(
            channels, channels, kernel=kernel, stride=stride, groups=channels, padding_rule="symmetric"
        )
        self.pointwise = ConvNormAct(channels, channels, kernel=1, norm=norm, activation=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(F.relu(x)))


class RectifiedConv(nn.Module):
    """ReLU, convolution, norm; with `halve` the map is first resized to half, corners aligned."""

    def __init__(
        self,
        channels: int,
        *,
        kernel: int,
        norm: NormLayer | None,
        stride: int = 1,
        rate: int = 1,
        halve: bool = False,
    ) -> None:
        super().__init__()
        self.halve = halve
        self.project = ConvNormAct(
            channels, channels, kernel=kernel, stride=stride, rate=rate, norm=norm, activation=None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(x)
        if self.halve:
            x = resize_bilinear(x, [(side + 1) // 2 for side in x.shape[-2:]], "align_corners")
        return self.project(x)


def make_operation(
    name: str, channels: int, *, stride: int, norm: NormLayer | None, keep: float
) -> nn.Sequential:
    """The operation called `name`, [N, channels, h, w] -> [N, channels, ceil(h / stride), ceil(w / stride)].

    Args:
        name: kind and kernel; every operation but 'none' ends in drop path.
        stride: 1 or 2. A strided atrous convolution is a resize to half and a convolution of rate 1.
        keep: of the drop path, 1 for none.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    kind, _, size = name.rpartition("_")
    kernel = int(size[0]) if kind else 1
    if kind == "separable":
        layers[f"{name}_1"] = RectifiedSeparable(channels, kernel=kernel, stride=stride, norm=norm)
        layers[f"{name}_2"] = RectifiedSeparable(channels, kernel=kernel, stride=1, norm=norm)
    elif kind == "atrous":
        halve = stride == 2
        layers[name] = RectifiedConv(channels, kernel=kernel, rate=1 if halve else 2, halve=halve, norm=norm)
    elif kind == "max_pool":
        layers[name] = MaxPool(stride=stride, padding_rule="same")
    elif stride > 1:
        layers["1x1"] = RectifiedConv(channels, kernel=1, stride=stride, norm=norm)
    if kind and keep < 1:
        layers["drop_path"] = DropPath(keep)
    return nn.Sequential(layers)
