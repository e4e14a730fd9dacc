"""Binary models of one logit and a sigmoid as models of two classes.

A softmax of two logits, the first always 0, is the sigmoid of the second, so such a model predicts, exports and
goes on training like any other: cross-entropy of the two is binary cross-entropy of their difference. The first
is the logit of the threshold: above it, and only there, the second class wins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from deeplab.config import DeepLabConfig
from deeplab.errors import UserError

HEAD = "classifiers.semantic.convs."
DEFAULT_THRESHOLD = 0.5


def with_background(
    config: DeepLabConfig, weights: Mapping[str, torch.Tensor], threshold: float | None
) -> tuple[DeepLabConfig, dict[str, torch.Tensor], tuple[str, ...]]:
    """`config` and `weights` of two classes if they are of one, with a note; otherwise as they are.

    Args:
        weights: by key of the model of `config`.
        threshold: the least sigmoid of the object's pixels, between 0 and 1; None for 0.5.

    Raises:
        UserError: a threshold for a model of several classes, or one that is not between 0 and 1.
    """
    if config.num_classes > 1:
        if threshold is not None:
            raise UserError(
                f"--threshold goes with a model of one class; this one has {config.num_classes}: leave it away"
            )
        return config, dict(weights), ()
    value = DEFAULT_THRESHOLD if threshold is None else threshold
    if not 0 < value < 1:
        raise UserError(f"--threshold is {value:g}", allowed="numbers between 0 and 1")
    if not any(key.startswith(HEAD) for key in weights):
        raise UserError(
            "it has one class and no classifier of its own, which is not read: train it with two classes"
        )
    doubled = {
        key: torch.cat([torch.zeros_like(array), array]) if key.startswith(HEAD) else array
        for key, array in weights.items()
    }
    doubled[f"{HEAD}0.bias"][0] = math.log(value / (1 - value))
    note = (
        "its single logit (for a sigmoid) became two, background's always that of the threshold: their softmax is "
        f"that sigmoid, and pixels above {value:g} are class 1"
    )
    return config.model_copy(update={"num_classes": 2}), doubled, (note,)
