"""Class weights from how often classes occur: median frequency balancing.

Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale
Convolutional Architecture" (arXiv 1411.4734, section 6.3.2): a class weighs median frequency / its frequency.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeplab.errors import UserError


def median_frequency_weights(frequencies: Sequence[float]) -> tuple[float, ...]:
    """One weight a class: above 1 for classes rarer than the median class.

    Args:
        frequencies: by class, in any unit: pixel counts, shares, or (as in the paper) the share in those
            photos that show the class. A class of frequency 0 does not count for the median and weighs 1, as the
            median class does: the paper leaves it open (median / 0), and 0 would keep the loss from ever learning
            it where it comes after all.

    Raises:
        UserError: a negative frequency, or no positive one.
    """
    counts = np.asarray(frequencies, dtype=np.float64)
    if not (counts > 0).any() or (counts < 0).any():
        raise UserError(
            f"class frequencies are {list(frequencies)}", allowed="0 or more, at least one above 0"
        )
    median = np.median(counts[counts > 0])
    weights = np.divide(median, counts, out=np.ones_like(counts), where=counts > 0)
    return tuple(weights.tolist())
