"""Losses of the reference (fact 6.1): a sum over pixels divided by the number of pixels that count.

Two traps: the divisor counts non-ignored pixels, not their class weights (PyTorch's weighted mean divides
by the weights), and hard-pixel mining takes its share of all pixels, ignored ones included.

On the CPU cross-entropy of more than a few pixels is computed without logits at the labels' size, see
`deeplab.native.upsample_loss`; the plain version says the same in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from deeplab.config import ResizeRule
from deeplab.errors import UserError
from deeplab.layers.resize import resize_bilinear, resize_nearest
from deeplab.native import upsample_loss

MATTING_CLASSES = 2


def segmentation_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    ignore_label: int = 255,
    class_weights: float | Sequence[float] | torch.Tensor | None = None,
    top_k: float = 1.0,
    mining_steps: int = 0,
    step: int = 0,
    upsample: bool = True,
    resize_rule: ResizeRule = "align_corners",
) -> torch.Tensor:
    """Softmax cross-entropy per pixel, averaged over the pixels that are not ignored.

    Args:
        logits: float [N, C, h, w]; half precision is widened to float32 first.
        labels: integer [N, H, W], 0..C-1 or `ignore_label`.
        ignore_label: pixels with this label count nowhere.
        class_weights: one factor for all, or C factors by class; None is 1.
        top_k: share of the batch's pixels, hardest first, that the loss is taken over; 1 takes all.
        mining_steps: steps over which that share falls linearly from 1 to `top_k`; 0 is at once.
        step: training step, for the ramp.
        upsample: resize logits to the labels; else labels to the logits, by nearest neighbour.
        resize_rule: how logits are resized.

    Returns:
        float32 scalar; 0 with zero gradients if every pixel is ignored.

    Raises:
        UserError: wrong number of weights, `top_k` outside (0, 1], or (checked on the CPU only, as
            a GPU would have to wait) a label that is no class.
    """
    weights = _class_weights(class_weights, logits.shape[1], device=logits.device)
    logits = logits.float()
    if not upsample:
        labels = _shrink(labels, logits)
    hard_pixels = None
    if top_k != 1.0:
        share = mining_share(top_k, mining_steps=mining_steps, step=step)
        hard_pixels = _hard_pixels(share, labels.numel())
    run = _compiled_cross_entropy if upsample_loss.can_run(logits, labels, weights) else _plain_cross_entropy
    return run(
        logits,
        labels,
        ignore_label=ignore_label,
        class_weights=weights,
        hard_pixels=hard_pixels,
        rule=resize_rule,
    )


def _plain_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    ignore_label: int,
    class_weights: torch.Tensor | None,
    hard_pixels: int | None,
    rule: ResizeRule,
) -> torch.Tensor:
    """As `deeplab.native.upsample_loss.upsampled_cross_entropy`, for any device and dtype."""
    if labels.device.type == "cpu":
        _check_labels(labels, logits.shape[1], ignore_label)
    logits = resize_bilinear(logits, (labels.shape[-2], labels.shape[-1]), rule)
    labels = labels.long()
    if hard_pixels is None:
        total = F.cross_entropy(logits, labels, class_weights, ignore_index=ignore_label, reduction="sum")
        return total / (labels != ignore_label).sum().clamp(min=1)
    pixels = F.cross_entropy(logits, labels, class_weights, ignore_index=ignore_label, reduction="none")
    return _hard_pixel_mean(pixels, count=hard_pixels)


def _compiled_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
    try:
        return upsample_loss.upsampled_cross_entropy(logits, labels, **options)
    except upsample_loss.NoClassError:
        _check_labels(labels, logits.shape[1], options["ignore_label"])
        raise


def matting_cross_entropy(
    logits: torch.Tensor,
    alpha: torch.Tensor,
    *,
    ignore_label: float = 255.0,
    top_k: float = 1.0,
    mining_steps: int = 0,
    step: int = 0,
    upsample: bool = True,
    resize_rule: ResizeRule = "align_corners",
) -> torch.Tensor:
    """Two-class cross-entropy against a soft foreground share; otherwise as `segmentation_cross_entropy`.

    Args:
        logits: float [N, 2, h, w], background and foreground.
        alpha: float [N, H, W], 0..1, or `ignore_label`.

    Raises:
        UserError: logits of another number of classes, or `top_k` outside (0, 1].
    """
    if logits.shape[1] != MATTING_CLASSES:
        raise UserError(
            f"matting needs 2 classes, the logits have {logits.shape[1]}", fix="use a 2-class head"
        )
    logits, alpha = same_size(logits, alpha, upsample=upsample, rule=resize_rule)
    keep = alpha != ignore_label
    foreground = torch.where(keep, alpha, torch.zeros_like(alpha)).float()
    targets = torch.stack([1 - foreground, foreground], dim=1)
    pixels = F.cross_entropy(logits, targets, reduction="none") * keep
    if top_k == 1.0:
        return pixels.sum() / keep.sum().clamp(min=1)
    share = mining_share(top_k, mining_steps=mining_steps, step=step)
    return _hard_pixel_mean(pixels, count=_hard_pixels(share, pixels.numel()))


def mining_share(top_k: float, *, mining_steps: int, step: int) -> float:
    """Share of pixels that count at `step`: from 1 linearly to `top_k` over `mining_steps`."""
    if not 0 < top_k <= 1:
        raise UserError(f"top_k is {top_k}", allowed="more than 0, at most 1 (1 switches mining off)")
    if mining_steps == 0:
        return top_k
    ramp = min(np.float32(1), np.float32(step) / np.float32(mining_steps))
    return float(ramp * np.float32(top_k) + (np.float32(1) - ramp))


def same_size(
    logits: torch.Tensor, labels: torch.Tensor, *, upsample: bool, rule: ResizeRule
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both at one size, logits as float32: logits resized to the labels, or (nearest) labels to the logits."""
    logits = logits.float()
    if upsample:
        return resize_bilinear(logits, (labels.shape[-2], labels.shape[-1]), rule), labels
    return logits, _shrink(labels, logits)


def _shrink(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return resize_nearest(labels, (logits.shape[-2], logits.shape[-1]))


def _hard_pixels(share: float, pixels: int) -> int:
    # float32 as in the reference: 0.29 of 100 pixels is 29 there, but 28 in float64.
    return min(int(np.float32(share) * np.float32(pixels)), pixels)


def _hard_pixel_mean(pixels: torch.Tensor, *, count: int) -> torch.Tensor:
    hardest = pixels.flatten().topk(count, sorted=False).values
    return hardest.sum() / (hardest != 0).sum().clamp(min=1)


def _class_weights(
    weights: float | Sequence[float] | torch.Tensor | None, num_classes: int, *, device: torch.device
) -> torch.Tensor | None:
    if weights is None:
        return None
    table = torch.as_tensor(weights, dtype=torch.float32, device=device)
    if table.dim() == 0:
        return table.expand(num_classes)
    if table.shape != (num_classes,):
        raise UserError(
            f"class_weights has {table.numel()} values for {num_classes} classes",
            allowed="one number, or one for each class (ignore is a label value, not a class)",
        )
    return table


def _check_labels(labels: torch.Tensor, num_classes: int, ignore_label: int) -> None:
    wrong = labels[(labels != ignore_label) & ((labels < 0) | (labels >= num_classes))]
    if wrong.numel():
        raise UserError(
            f"label {int(wrong[0])} is no class",
            allowed=f"0..{num_classes - 1}, and {ignore_label} for ignore",
            fix="correct the masks, or the number of classes",
        )
