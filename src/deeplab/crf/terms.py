"""Gaussian pairwise terms of a photo: feature vectors whose distances the kernels measure, and weights.

In numpy: threads that torch leaves spinning after its own loops would slow down the compiled mean field.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from deeplab.crf.config import CRFConfig

TILE = 32


class Term(NamedTuple):
    """One Gaussian kernel between all pairs of pixels.

    Attributes:
        features: float64 [pixels, dimensions], each divided by its standard deviation.
        weight: what the normalised kernel is multiplied by, > 0.
    """

    features: np.ndarray
    weight: float


def pairwise_terms(image: np.ndarray, parameters: CRFConfig) -> list[Term]:
    """The terms of v1 section 4.1 that have a weight above 0.

    Args:
        image: float32 [H, W, K], any K >= 1 channels.
    """
    height, width, channels = image.shape
    terms = []
    if parameters.w1:
        appearance = _positions(height, width, parameters.sigma_alpha, further=channels)
        np.divide(image, parameters.sigma_beta, out=appearance[..., 2:], dtype=np.float64)
        terms.append(Term(appearance.reshape(-1, 2 + channels), parameters.w1))
    if parameters.w2:
        terms.append(Term(_positions(height, width, parameters.sigma_gamma).reshape(-1, 2), parameters.w2))
    return terms


def _positions(height: int, width: int, sigma: float, *, further: int = 0) -> np.ndarray:
    """float64 [H, W, 2 + further]: column and row in units of sigma, and room for more."""
    features = np.empty((height, width, 2 + further))
    features[..., 0] = np.arange(width) / sigma
    features[..., 1] = (np.arange(height) / sigma)[:, None]
    return features


@lru_cache(maxsize=4)
def by_tiles(height: int, width: int) -> np.ndarray:
    """int32 [pixels]: the photo's pixels tile by tile, since near pixels meet in the same lattice points."""
    rows, columns = np.arange(height)[:, None] // TILE, np.arange(width)[None] // TILE
    tile = rows * ((width + TILE - 1) // TILE) + columns
    return tile.ravel().argsort(kind="stable").astype(np.int32)
