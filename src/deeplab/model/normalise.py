"""Pixels 0..255 to what a network takes: (pixels - mean) / std by channel, at the speed of memory."""

from __future__ import annotations

import torch


def normalise(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Normalise each channel.

    Args:
        pixels: [N, C, H, W], 0..255, uint8 or floating point, in any memory order.
        mean: floating point [1, C, 1, 1].
        std: likewise.

    Returns:
        [N, C, H, W] in the memory order of `pixels`, and in the wider of its and `mean`'s floating point type.
    """
    if not _are_interleaved(pixels):
        return (pixels - mean).div_(std)
    # along whole rows, as three values that repeat would be read one by one
    width = pixels.shape[3]
    rows = pixels.permute(0, 2, 3, 1).flatten(2)
    rows = (rows - mean.flatten().repeat(width)).div_(std.flatten().repeat(width))
    return rows.unflatten(2, (width, -1)).permute(0, 3, 1, 2)


def _are_interleaved(pixels: torch.Tensor) -> bool:
    """Channels-last on a CPU, and not in a program for elsewhere, which is to stay simple."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or pixels.device.type != "cpu":
        return False
    return pixels.is_contiguous(memory_format=torch.channels_last) and not pixels.is_contiguous()
