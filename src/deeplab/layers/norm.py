"""Batch norm that survives one value per channel.

The image-pooling branch reduces each photo to 1x1, so a training batch of one leaves a single value per
channel: its variance is zero, the normalised value is always beta, and the running variance would be
poisoned. v3 section 3.3 needs the branch, and users need batch 1. Rule: **with a single value per channel
the running statistics are used and left as they are**, which is what evaluation would do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

NormLayer = Callable[[int], nn.Module]


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with the one-value rule above; parameters and buffers are the same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(x)


def norm_layer(*, eps: float, momentum: float, folded: bool = False) -> NormLayer | None:
    """A factory of batch norms, or None when norms are folded into the convolutions' biases.

    Args:
        eps: added to the variance; it belongs to the weights (reference fact 2.1).
        momentum: PyTorch's, that is 1 - TensorFlow's decay.
        folded: True for published weights whose norms were folded; every convolution then has a bias.
    """
    if folded:
        return None
    return lambda channels: BatchNorm2d(channels, eps=eps, momentum=momentum)
