"""Mean field of the fully connected CRF in torch: what runs where no C++ compiler is found.

Kraehenbuehl and Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials" (2011),
algorithm 1, with Potts compatibility and symmetric normalisation.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deeplab.crf.lattice import Lattice, build_lattice
from deeplab.crf.terms import Term


def mean_field(energies: np.ndarray, terms: list[Term], *, iterations: int) -> np.ndarray:
    """float32 energies [classes, H, W] -> float32 marginals of the same shape."""
    scores = -torch.from_numpy(energies).flatten(1).T.contiguous()
    lattices = [build_lattice(torch.from_numpy(term.features)) for term in terms]
    norms = [_norm(lattice) for lattice in lattices]
    marginals = scores.softmax(1)
    for _ in range(iterations):
        total = scores.clone()
        for term, lattice, norm in zip(terms, lattices, norms, strict=True):
            total += term.weight * norm * lattice.filter(marginals * norm)
        marginals = total.softmax(1)
    return marginals.T.reshape(energies.shape).numpy()


def _norm(lattice: Lattice) -> Tensor:
    """float32 [pixels, 1]: 1 / sqrt of the kernel's row sums."""
    return (lattice.filter(torch.ones(lattice.point.shape[0], 1)) + 1e-20).rsqrt()
