"""Mean field in compiled code: `mean_field.cpp`, see `deeplab.native.build`."""

from __future__ import annotations

import ctypes

import numpy as np
import torch

from deeplab.crf.lattice import key_multipliers
from deeplab.crf.terms import Term, by_tiles
from deeplab.native.build import INT, LONG, POINTER, Kernel

KERNEL = Kernel(
    __name__,
    {"deeplab_crf_mean_field": (INT, LONG, LONG, POINTER, POINTER, INT, *[POINTER] * 4, INT, INT, POINTER)},
)


def mean_field(energies: np.ndarray, terms: list[Term], *, iterations: int) -> np.ndarray:
    """float32 energies [classes, H, W] -> float32 marginals of the same shape, on torch's number of threads.

    Raises:
        CannotCompileError: see `deeplab.native.build.Kernel.library`.
        MemoryError: the lattices do not fit.
    """
    energies = np.ascontiguousarray(energies)
    classes, height, width = energies.shape
    order = by_tiles(height, width)
    features = [term.features[order] for term in terms]
    dimensions = [each.shape[1] for each in features]
    multipliers = key_multipliers(max(dimensions, default=0))
    marginals = np.empty_like(energies)
    failed = KERNEL.library.deeplab_crf_mean_field(
        height * width,
        classes,
        energies.ctypes.data,
        order.ctypes.data,
        len(terms),
        (ctypes.c_int * len(terms))(*dimensions),
        (ctypes.c_void_p * len(terms))(*(each.ctypes.data for each in features)),
        (ctypes.c_float * len(terms))(*(term.weight for term in terms)),
        multipliers.data_ptr(),
        iterations,
        torch.get_num_threads(),
        marginals.ctypes.data,
    )
    if failed:
        raise MemoryError(f"the CRF of {height}x{width} pixels and {classes} classes does not fit in memory")
    return marginals
