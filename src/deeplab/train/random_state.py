"""The random generators of this process, as tensors and JSON values: what dropout and drop path continue from.

Data need none of it: a sample's generator depends on (seed, photo, epoch) alone, in any worker.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch


class RandomState(NamedTuple):
    """Tensors by name, and JSON values, of torch's, NumPy's and Python's global generators."""

    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


def seed_all(seed: int) -> None:
    """Start torch's, NumPy's and Python's global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def capture(device: str) -> RandomState:
    """The generators as they are now; on cuda also that of `device`."""
    state: Any = np.random.get_state()
    kind, keys, *rest = state
    version, words, gauss = random.getstate()
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(keys.astype(np.int64)),
        "python": torch.tensor(words, dtype=torch.int64),
    }
    if device.startswith("cuda"):
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    return RandomState(tensors, {"numpy": [kind, *rest], "python": [version, gauss]})


def restore(state: RandomState, device: str) -> None:
    """Put the generators back to where `capture` found them."""
    torch.set_rng_state(state.tensors["torch"])
    kind, *rest = state.values["numpy"]
    np.random.set_state((kind, state.tensors["numpy"].numpy().astype(np.uint32), *rest))
    version, gauss = state.values["python"]
    random.setstate((version, tuple(state.tensors["python"].tolist()), gauss))
    if device.startswith("cuda") and "cuda" in state.tensors:
        torch.cuda.set_rng_state(state.tensors["cuda"], device)
