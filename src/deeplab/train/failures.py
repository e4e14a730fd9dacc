"""What goes wrong inside a training step, told to the person who can fix it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deeplab.errors import UserError
from deeplab.train.recipe import Recipe


@contextmanager
def explained(recipe: Recipe) -> Iterator[None]:
    """Turn memory that ran out, here or in a data worker, into one message.

    Raises:
        UserError: instead of that; every other error passes.
    """
    try:
        yield
    except RuntimeError as error:
        advice = _memory_advice(error, recipe)
        if advice is None:
            raise
        raise UserError(advice) from error


def _memory_advice(error: RuntimeError, recipe: Recipe) -> str | None:
    text = str(error)
    if "DataLoader worker" in text and "killed" in text:
        return (
            f"a data worker was killed, mostly for want of memory; fix: workers: {max(0, recipe.workers - 1)}"
        )
    if not isinstance(error, torch.OutOfMemoryError) and "not enough memory" not in text:
        return None
    settings = recipe.optimise
    wishes = [f"optimise.accumulate: {2 * settings.accumulate} (same result but for batch norm)"]
    if not settings.recompute:
        wishes.append("optimise.recompute: true (same result, slower)")
    if settings.precision == "float32":
        wishes.append("optimise.precision: auto (bfloat16 where the device has it)")
    wishes.append(f"a crop below {recipe.augment.crop}")
    return (
        f"memory ran out with optimise.batch_size {settings.batch_size}, accumulate {settings.accumulate}; "
        f"fix, best first: {'; '.join(wishes)} ({text.splitlines()[0]})"
    )
