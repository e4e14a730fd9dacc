"""Softmax cross-entropy of upsampled logits as one operation: `upsample_loss.cpp` as an autograd function.

Equal to resizing and `torch.nn.functional.cross_entropy` (the plain version is in
`deeplab.train.losses.cross_entropy`) up to
rounding, without logits at the labels' size: a loss is a scalar, so its gradient by the low-resolution logits is
computed in the same pass, and the backward pass only scales it.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from deeplab.config import ResizeRule
from deeplab.native.build import INT, POINTER, Kernel

KERNEL = Kernel(
    "deeplab.native",
    ("upsample_loss.cpp", "vector_math.hpp", "share_out.hpp"),
    {"deeplab_upsample_loss": (INT, POINTER, INT)},
)
# below it, the library's first compilation (some seconds) is not worth it
LEAST_PIXELS = 4096
LOGITS_DTYPES = (torch.float32, torch.float64)
LABEL_DTYPES = (torch.uint8, torch.int64)


class NoClassError(ValueError):
    """A label is no class and not ignored."""


class _Problem(ctypes.Structure):
    """Arguments and results, as upsample_loss.cpp says."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("logits", "gradient", "losses", "labels", "class_weights")),
        *((name, ctypes.c_void_p) for name in ("row_low", "row_high", "column_low", "column_high")),
        *((name, ctypes.c_void_p) for name in ("row_share", "column_share")),
        *((name, ctypes.c_int64) for name in ("label_bytes", "ignore_label")),
        *(
            (name, ctypes.c_int64)
            for name in ("batch", "classes", "height", "width", "out_height", "out_width")
        ),
        *((name, ctypes.c_int64) for name in ("batch_stride", "class_stride", "row_stride", "column_stride")),
        *((name, ctypes.c_int64) for name in ("hard_pixels", "threads")),
        *((name, ctypes.c_double) for name in ("total", "divisor")),
        ("wrong_pixel", ctypes.c_int64),
    ]


def can_run(logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None) -> bool:
    """Whether `upsampled_cross_entropy` takes these: eager calls on the CPU that are not tiny."""
    weighted = class_weights is not None
    return (
        labels.numel() >= LEAST_PIXELS
        and logits.device.type == labels.device.type == "cpu"
        and logits.dtype in LOGITS_DTYPES
        and not labels.dtype.is_floating_point
        and type(logits) is type(labels) is torch.Tensor
        and not (weighted and (class_weights.requires_grad or bool((class_weights < 0).any())))
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and KERNEL.ready()
    )


def upsampled_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    ignore_label: int,
    class_weights: torch.Tensor | None = None,
    hard_pixels: int | None = None,
    rule: ResizeRule = "align_corners",
) -> torch.Tensor:
    """Cross-entropy of logits resized to the labels' size, summed and divided by the pixels that count.

    Once differentiable by the logits.

    Args:
        logits: float32 or float64 [N, C, h, w], contiguous or channels last (others are copied).
        labels: integer [N, H, W], 0..C-1 or `ignore_label`; uint8 and int64 are read as they are.
        ignore_label: pixels with this label count nowhere.
        class_weights: float [C], not negative.
        hard_pixels: how many pixels, hardest first, count; None is every pixel that is not ignored. The mean is
            then over those with a loss that is not 0.
        rule: how logits are resized.

    Returns:
        scalar of the logits' dtype; 0 with zero gradients if no pixel counts.

    Raises:
        NoClassError: a label out of range.
        MemoryError: there is no memory for a thread's strips.
    """
    wants_gradient = torch.is_grad_enabled() and logits.requires_grad
    arguments = labels, ignore_label, class_weights, hard_pixels, rule
    if wants_gradient:
        return _UpsampledCrossEntropy.apply(logits, *arguments)
    return _solve(logits, *arguments, wants_gradient=False)[0]


class _UpsampledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, *arguments: Any) -> torch.Tensor:
        loss, gradient, divisor = _solve(logits, *arguments, wants_gradient=True)
        ctx.save_for_backward(gradient)
        ctx.divisor = divisor
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * (factor / ctx.divisor), None, None, None, None, None


def _solve(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_label: int,
    class_weights: torch.Tensor | None,
    hard_pixels: int | None,
    rule: ResizeRule,
    *,
    wants_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, float]:
    """The loss, its gradient (if wanted) times a divisor, and this."""
    logits, labels = _dense(logits.detach()), _readable(labels)
    batch, classes, height, width = logits.shape
    weights = torch.ones(classes) if class_weights is None else class_weights
    weights = weights.to(logits.dtype).contiguous()
    gradient = torch.zeros_like(logits) if wants_gradient else None
    losses = None if hard_pixels is None else torch.empty(labels.shape, dtype=logits.dtype)
    rows = _axis(height, labels.shape[1], rule, logits.dtype)
    columns = _axis(width, labels.shape[2], rule, logits.dtype)
    problem = _Problem(
        *(None if each is None else each.data_ptr() for each in (logits, gradient, losses, labels, weights)),
        *(each.ctypes.data for each in (*rows[:2], *columns[:2], rows[2], columns[2])),
        labels.element_size(),
        ignore_label,
        batch,
        classes,
        height,
        width,
        *labels.shape[1:],
        *logits.stride(),
        -1 if hard_pixels is None else hard_pixels,
        torch.get_num_threads(),
    )
    if KERNEL.library.deeplab_upsample_loss(ctypes.byref(problem), logits.dtype == torch.float64):
        raise MemoryError(f"the loss of {batch} maps of {classes} classes does not fit in memory")
    if problem.wrong_pixel >= 0:
        raise NoClassError(f"label {int(labels.view(-1)[problem.wrong_pixel])} is no class")
    divisor = max(problem.divisor, 1.0)
    return torch.tensor(problem.total / divisor, dtype=logits.dtype), gradient, divisor


def _dense(logits: torch.Tensor) -> torch.Tensor:
    """The same values without gaps in memory."""
    if logits.is_contiguous(memory_format=torch.channels_last):
        return logits
    return logits.contiguous()


def _readable(labels: torch.Tensor) -> torch.Tensor:
    return (labels if labels.dtype in LABEL_DTYPES else labels.long()).contiguous()


@lru_cache(maxsize=64)
def _axis(
    source: int, target: int, rule: ResizeRule, dtype: torch.dtype
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each index of the target its two neighbours in the source, int32, and the share of the second.

    Rounded as `torch.nn.functional.interpolate` does, and for the legacy rule as `resize_bilinear`.
    """
    real = np.float64 if dtype == torch.float64 else np.float32
    index = np.arange(target, dtype=real)
    if rule == "align_corners":
        position = index * (real(source - 1) / real(max(target - 1, 1)))
    elif rule == "half_pixel":
        position = np.maximum((index + real(0.5)) * (real(source) / real(target)) - real(0.5), 0)
    else:
        position = index * (real(source) / real(target))
    low = np.minimum(position.astype(np.int32), source - 1)
    share = np.where(low < source - 1, np.minimum(position - low, 1), 0).astype(real)
    return low, np.minimum(low + 1, source - 1).astype(np.int32), share
