"""The fully connected CRF on a photo or a batch: checks, unary energies, and the mean field (v1 section 4.1).

Conventions are DenseCRF's: energies are -log of clipped probabilities, Potts compatibility, kernels that include
a pixel itself, symmetric normalisation.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deeplab.crf.config import ITERATIONS, V2_RESNET101, CRFConfig
from deeplab.crf.engine import MEAN_FIELD, Engine, chosen_engine
from deeplab.crf.lattice import MOST_DIMENSIONS
from deeplab.crf.terms import pairwise_terms
from deeplab.errors import UserError

Array = Tensor | np.ndarray
# probabilities below this are taken for it, as in DenseCRF's own examples
LEAST_PROBABILITY = 1e-5


@torch.no_grad()
def dense_crf(
    probabilities: Array,
    image: Array,
    *,
    parameters: CRFConfig = V2_RESNET101,
    iterations: int = ITERATIONS,
    engine: Engine | None = None,
) -> Tensor:
    """Marginals of the fully connected CRF whose unary energies are -log of the network's probabilities.

    Args:
        probabilities: [C, H, W] or [B, C, H, W], 0 to 1, any C >= 1; below 1e-5 they count as 1e-5.
        image: [H, W, K] or [B, H, W, K], any K >= 1 channels, uint8 or floating; sigma_beta is in its units.
        parameters: weights and standard deviations of the pairwise terms.
        iterations: mean-field steps, >= 0; with 0 the marginals are the (clipped, renormalised) probabilities.
        engine: 'auto', 'compiled' or 'torch'; None: see `chosen_engine`. They agree within 1e-3, mostly 1e-5.

    Returns:
        float32 on the CPU, of the shape of `probabilities`; sums over classes are 1.

    Raises:
        UserError: shapes that do not fit, probabilities outside 0..1, values that are not finite, iterations < 0.
    """
    found = _floats(probabilities, "probabilities")
    if found.size and not (found.min() >= 0 and found.max() <= 1 + 1e-4):
        raise UserError(
            f"probabilities are {found.min():g} to {found.max():g}; allowed is 0 to 1",
            fix="softmax over the classes, or dense_crf_from_energies for -log of probabilities",
        )
    energies = found.clip(LEAST_PROBABILITY, 1)
    np.log(energies, out=energies)
    np.negative(energies, out=energies)
    return dense_crf_from_energies(
        energies, image, parameters=parameters, iterations=iterations, engine=engine
    )


@torch.no_grad()
def dense_crf_from_energies(
    energies: Array,
    image: Array,
    *,
    parameters: CRFConfig = V2_RESNET101,
    iterations: int = ITERATIONS,
    engine: Engine | None = None,
) -> Tensor:
    """`dense_crf` from unary energies, -log of unnormalised probabilities: [C, H, W] or [B, C, H, W], finite."""
    unary, photo = _floats(energies, "energies"), _floats(image, "image")
    _check(unary, photo, iterations)
    if unary.ndim == 3:
        return torch.from_numpy(_one(unary, photo, parameters, iterations, engine))
    pairs = zip(unary, photo, strict=True)
    return torch.from_numpy(np.stack([_one(*pair, parameters, iterations, engine) for pair in pairs]))


def _one(
    unary: np.ndarray, image: np.ndarray, parameters: CRFConfig, iterations: int, engine: Engine | None
) -> np.ndarray:
    mean_field = MEAN_FIELD[chosen_engine(engine)]
    terms = pairwise_terms(image, parameters)
    return mean_field(unary, terms, iterations=iterations)


def _floats(values: Array, name: str) -> np.ndarray:
    plain = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    found = plain.astype(np.float32, copy=False)
    if not np.isfinite(found).all():
        raise UserError(f"{name} holds values that are not finite (nan or inf); they must be numbers")
    return found


def _check(unary: np.ndarray, image: np.ndarray, iterations: int) -> None:
    shapes = f"probabilities or energies are {list(unary.shape)} and the image is {list(image.shape)}"
    if (unary.ndim, image.ndim) not in ((3, 3), (4, 4)):
        raise UserError(f"{shapes}; allowed are [C, H, W] with [H, W, K], or [B, C, H, W] with [B, H, W, K]")
    if unary.shape[-2:] != image.shape[-3:-1] or unary.shape[:-3] != image.shape[:-3]:
        raise UserError(
            f"{shapes}: height, width or batch differ", fix="resize the probabilities to the photo"
        )
    if 0 in (*unary.shape, *image.shape):
        raise UserError(f"{shapes}; no side may be 0")
    if image.shape[-1] > MOST_DIMENSIONS - 2:
        raise UserError(f"the image has {image.shape[-1]} channels; allowed are 1 to {MOST_DIMENSIONS - 2}")
    if iterations < 0:
        raise UserError(f"iterations is {iterations}; allowed is 0 or more")
