"""The step behind the network: labels at full size from logits at low resolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from harness.process import Variant

PLAIN = "interpolate and argmax, eager"


class Enlarging(NamedTuple):
    """Logits of `classes`, at a quarter of a map's size."""

    classes: int
    height: int
    width: int
    threads: int | None = None

    @property
    def name(self) -> str:
        """Short and unique."""
        return f"enlarging-{self.classes}classes-{self.height}x{self.width}"

    @property
    def title(self) -> str:
        """For tables."""
        return f"upsampling and argmax alone, {self.classes} classes, {self.height}x{self.width}"


CASES = (Enlarging(21, 513, 513), Enlarging(19, 1025, 2049), Enlarging(150, 1025, 2049))


def variants(case: Enlarging, *, peer_python: str, python: str) -> list[Variant]:
    """All that compute the same labels; the first is the reference."""
    arguments: dict[str, Any] = {"case": case._asdict()}
    return [
        Variant(PLAIN, "harness.enlarging", "eager", {**arguments, "channels_last": False}, peer_python),
        Variant(
            "the same, channels last",
            "harness.enlarging",
            "eager",
            {**arguments, "channels_last": True},
            peer_python,
        ),
        Variant("ours", "harness.enlarging", "ours", arguments, python),
    ]


def eager(*, case: dict[str, Any], channels_last: bool) -> Callable[[], np.ndarray]:
    """What everybody writes."""
    import torch

    logits, size = _logits(case)
    if channels_last:
        logits = logits.contiguous(memory_format=torch.channels_last)

    def run() -> np.ndarray:
        large = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=True)
        return large.argmax(1).to(torch.uint8).numpy()

    return run


def ours(*, case: dict[str, Any]) -> Callable[[], np.ndarray]:
    """Both in one, from logits as our networks leave them: channels last."""
    import torch

    from deeplab.native.upsample_argmax import upsample_argmax

    logits, size = _logits(case)
    logits = logits.contiguous(memory_format=torch.channels_last)
    return lambda: upsample_argmax(logits, size, "align_corners").numpy()


def _logits(case: dict[str, Any]) -> tuple[Any, tuple[int, int]]:
    """Smooth, with a little noise: regions some twenty cells wide, as networks' logits have them."""
    import torch

    size = case["height"], case["width"]
    generator = torch.Generator().manual_seed(0)
    low = [(side + 3) // 4 for side in size]
    coarse = torch.randn(1, case["classes"], *(side // 16 + 2 for side in low), generator=generator)
    smooth = torch.nn.functional.interpolate(4 * coarse, low, mode="bicubic")
    return smooth + 0.2 * torch.randn(smooth.shape, generator=generator), size
