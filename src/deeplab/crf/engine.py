"""Which code runs the mean field: compiled where a C++ compiler is found, else torch. Both give equal marginals."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from deeplab.crf import compiled, torch_engine
from deeplab.errors import UserError

Engine = Literal["auto", "compiled", "torch"]
VARIABLE = "DEEPLAB_CRF_ENGINE"
MEAN_FIELD: dict[str, Callable[..., np.ndarray]] = {
    "compiled": compiled.mean_field,
    "torch": torch_engine.mean_field,
}


def chosen_engine(engine: Engine | None = None) -> str:
    """'compiled' or 'torch': what `dense_crf` with this argument runs.

    Args:
        engine: None reads the environment variable DEEPLAB_CRF_ENGINE, and without it is 'auto': compiled if it can
            be, else torch, with the warning of `deeplab.native.build.Kernel.ready`.

    Raises:
        UserError: an unknown name, or 'compiled' where nothing can be compiled.
    """
    origin = "engine" if engine else VARIABLE
    wanted = engine or os.environ.get(VARIABLE) or "auto"
    if wanted not in get_args(Engine):
        raise UserError(f"{origin} is {wanted!r}; allowed are {', '.join(get_args(Engine))}")
    if wanted == "torch":
        return wanted
    if wanted == "auto":
        return "compiled" if compiled.KERNEL.ready() else "torch"
    reason = compiled.KERNEL.why_not
    if reason:
        raise UserError(
            f"{origin} is 'compiled', but {reason}", fix="install a C++ compiler, or choose 'torch'"
        )
    return wanted
