"""Max pooling under the same padding rules as convolutions (reference fact 2.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from deeplab.config import Padding
from deeplab.layers.conv import same_padding


class MaxPool(nn.Module):
    """3x3 max pooling: [N, C, H, W] -> [N, C, ceil(H / stride), ceil(W / stride)]; borders count as -inf.

    By 'caffe' rule an even side gives half of it and one: its last window sees a single row.
    """

    def __init__(self, *, stride: int, padding_rule: Padding) -> None:
        super().__init__()
        self.stride = stride
        self.padding_rule = padding_rule

    def set_atrous(self, stride: int, rate: int) -> None:
        """Change the stride. The window keeps rate 1, as in the released VGG models (v1 section 3.1)."""
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.padding_rule != "same" or self.stride == 1:
            return F.max_pool2d(x, 3, self.stride, 1, ceil_mode=self.padding_rule == "caffe")
        top, bottom = same_padding(x.shape[-2], 3, self.stride)
        left, right = same_padding(x.shape[-1], 3, self.stride)
        return F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-torch.inf), 3, self.stride)
