"""Put foreign weights into a model: nothing missing, nothing left over, shapes equal, values possible."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from deeplab.errors import UserError
from deeplab.model.checkpoint import find_impossible

SHOWN = 5


def fill(model: nn.Module, weights: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Load `weights`, which must be exactly the parameters and statistics of `model`.

    Args:
        weights: by state-dict key, in PyTorch's layout; they are copied.
        source: the file's name, for errors.

    Raises:
        UserError: missing or surplus keys, shapes that differ, NaN or infinity, negative variances.
    """
    expected = model.state_dict()
    problems = [
        f"nothing fills {key} {_shape(value)}" for key, value in expected.items() if key not in weights
    ]
    problems += [f"the model has no {key}" for key in weights if key not in expected]
    for key, value in weights.items():
        if key in expected and value.shape != expected[key].shape:
            problems.append(f"{key} is {_shape(value)} in the file and {_shape(expected[key])} in the model")
    taken = {key: value.to(expected[key].dtype) for key, value in weights.items() if key in expected}
    problems += [f"{impossible}: the file is damaged" for impossible in find_impossible(taken)]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(f"the weights do not fit the model: {'; '.join(problems[:SHOWN])}{more}", file=source)
    model.load_state_dict(dict(weights))


def _shape(value: torch.Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"
