"""The part of a training recipe that says how photos are varied."""

from __future__ import annotations

from deeplab.config import NonNegative, Positive, Share, Strict


class AugmentRecipe(Strict):
    """Random scale (factor from `scales`, spaced by `scale_step`; 0 is uniform), crop, flip, colours."""

    crop: tuple[Positive, Positive] = (513, 513)
    scales: tuple[float, float] = (0.5, 2.0)
    scale_step: NonNegative = 0.25
    flip: Share = 0.5
    jitter: tuple[Share, Share, Share] | None = None
