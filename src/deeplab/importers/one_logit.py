"""Binary models of one logit and a sigmoid as models of two classes, of which the first has no weights.

See `deeplab.config.Architecture.sigmoid`: such a model predicts, exports and goes on training like any other.
"""

from __future__ import annotations

from deeplab.config import DeepLabConfig
from deeplab.errors import UserError

DEFAULT_THRESHOLD = 0.5


def with_background(config: DeepLabConfig, threshold: float | None) -> tuple[DeepLabConfig, tuple[str, ...]]:
    """`config` of two classes if it is of one, with a note; otherwise as it is.

    Args:
        threshold: the least sigmoid of the object's pixels, between 0 and 1; None for 0.5.

    Raises:
        UserError: a threshold for a model of several classes, or one that is not between 0 and 1.
    """
    if config.num_classes > 1:
        if threshold is not None:
            raise UserError(
                f"--threshold goes with a model of one class; this one has {config.num_classes}: leave it away"
            )
        return config, ()
    value = DEFAULT_THRESHOLD if threshold is None else threshold
    if not 0 < value < 1:
        raise UserError(f"--threshold is {value:g}", allowed="numbers between 0 and 1")
    if config.decoder and config.decoder.output_is_logits:
        raise UserError(
            "it has one class and no classifier of its own, which is not read: train it with two classes"
        )
    note = (
        f"its single logit (for a sigmoid) is class 1's: pixels above {value:g} are class 1, others class 0"
    )
    return config.model_copy(update={"num_classes": 2, "sigmoid": value}), (note,)
