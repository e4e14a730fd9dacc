"""Which code runs the mean field: compiled where a C++ compiler is found, else torch. Both give equal marginals."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import Literal, get_args

import numpy as np

from deeplab.crf import compiled, torch_engine
from deeplab.errors import UserError
from deeplab.native.build import CannotCompileError

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
            be, else torch with one RuntimeWarning that says why.

    Raises:
        UserError: an unknown name, or 'compiled' where nothing can be compiled.
    """
    origin = "engine" if engine else VARIABLE
    wanted = engine or os.environ.get(VARIABLE) or "auto"
    if wanted not in get_args(Engine):
        raise UserError(f"{origin} is {wanted!r}; allowed are {', '.join(get_args(Engine))}")
    if wanted == "torch":
        return wanted
    reason = why_not_compiled()
    if not reason:
        return "compiled"
    if wanted == "compiled":
        raise UserError(
            f"{origin} is 'compiled', but {reason}; fix: install a C++ compiler, or choose 'torch'"
        )
    warn_once(reason)
    return "torch"


@cache
def why_not_compiled() -> str:
    """Empty if the compiled engine is ready; it is built for the answer."""
    try:
        compiled.load()
    except CannotCompileError as error:
        return str(error)
    return ""


@cache
def warn_once(reason: str) -> None:
    """Said once a process, since a CRF runs on many photos."""
    message = (
        f"the CRF runs in torch, several times slower than compiled: {reason}; a C++ compiler mends this"
    )
    warnings.warn(message, RuntimeWarning, stacklevel=4)
