"""Parameters of the fully connected CRF, and the values that the papers published.

v1 section 5.1 and v2 section 4.1: w2 = 3 and sigma_gamma = 3 are kept, the others are searched on 100 held-out
images, coarse to fine; 10 mean-field iterations throughout.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field

from deeplab.config import Strict

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]

ITERATIONS = 10


class CRFConfig(Strict):
    """Weights and standard deviations of the two pairwise terms, in the papers' symbols.

    w1 exp(-|p_i - p_j|^2 / (2 sigma_alpha^2) - |I_i - I_j|^2 / (2 sigma_beta^2))
    + w2 exp(-|p_i - p_j|^2 / (2 sigma_gamma^2))

    Attributes:
        w1: weight of the appearance term; 0 leaves it out.
        sigma_alpha: its reach in pixels.
        sigma_beta: its reach in image values (0 to 255).
        w2: weight of the smoothness term; 0 leaves it out.
        sigma_gamma: its reach in pixels.
    """

    w1: Weight = 4.0
    sigma_alpha: Deviation = 67.0
    sigma_beta: Deviation = 3.0
    w2: Weight = 3.0
    sigma_gamma: Deviation = 1.0


class SearchRanges(NamedTuple):
    """What v1 and v2 searched (lowest, highest), and what they kept."""

    w1: tuple[float, float] = (3.0, 6.0)
    sigma_alpha: tuple[float, float] = (30.0, 100.0)
    sigma_beta: tuple[float, float] = (3.0, 6.0)
    w2: float = 3.0
    sigma_gamma: float = 3.0


# in wide use for v2 with ResNet-101; neither paper prints the values that its own search chose
V2_RESNET101 = CRFConfig(w1=4.0, sigma_alpha=67.0, sigma_beta=3.0, w2=3.0, sigma_gamma=1.0)
