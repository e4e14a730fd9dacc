"""Which classes of a data set count, and under which numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeplab.data.source import IGNORE_LABEL
from deeplab.errors import UserError


def select_classes(
    names: Sequence[str], keep: Sequence[str], *, other: str = "ignore", ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
    """A look-up table that renumbers masks so that `keep[i]` becomes class i.

    Args:
        names: class names of the masks, by index.
        keep: names that stay, in their new order.
        other: what becomes of all other classes: "ignore", or "background" (which must be in `keep`).
        ignore_label: value that means ignore, before and after.

    Returns:
        uint8 [256]; every value that is no class of `names` maps to `ignore_label`.

    Raises:
        UserError: an unknown or repeated name, or a wrong `other`.
    """
    unknown = [name for name in keep if name not in names]
    if unknown or len(set(keep)) != len(keep) or not keep:
        problem = f"{unknown[0]!r} is not a class" if unknown else "names must be given, each once"
        raise UserError(f"classes to keep {list(keep)}: {problem}", allowed=", ".join(names))
    if other not in ("ignore", "background") or (other == "background" and "background" not in keep):
        raise UserError(
            f"other={other!r} with classes {list(keep)}: allowed are 'ignore', and 'background' where "
            "background is among the classes to keep"
        )
    table = np.full(256, ignore_label, dtype=np.uint8)
    if other == "background":
        table[: len(names)] = list(keep).index("background")
    for index, name in enumerate(keep):
        table[list(names).index(name)] = index
    table[ignore_label] = ignore_label
    return table
