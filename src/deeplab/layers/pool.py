"""Max pooling under convolutions' padding rules (reference fact 2.3), and means over windows of any size."""

from __future__ import annotations

from collections.abc import Sequence

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


def window_means(
    x: torch.Tensor, window: Sequence[int], stride: Sequence[int] = (1, 1)
) -> tuple[torch.Tensor, tuple[int, int] | None]:
    """Means over all windows that lie wholly inside the map, `stride` apart.

    Args:
        x: [N, C, h, w].
        window: height and width; in an exported program they may follow from the image's size.

    Returns:
        the means [N, C, h', w'], and None. Where the window follows the image: means at x's own size and
        (h', w'), the rows and columns that count; behind them the last mean is repeated. For h' itself, 1 in
        some photos and more in others, cannot be the size of a map in an exported program.
    """
    if all(isinstance(length, int) for length in window):
        return F.avg_pool2d(x, list(window), list(stride)), None
    counts = []
    for dim, length, step in zip((2, 3), window, stride, strict=True):
        counts.append((x.shape[dim] - length) // step + 1)
        # pooling would freeze its window at the example's size, running sums do not
        sums = F.pad(x.cumsum(dim), (0, 0, 1, 0) if dim == 2 else (1, 0))
        begin = torch.arange(x.shape[dim], device=x.device).clamp(max=counts[-1] - 1) * step
        x = (sums.index_select(dim, begin + length) - sums.index_select(dim, begin)) / length
    return x, (counts[0], counts[1])
