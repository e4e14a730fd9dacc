"""Which classes of a data set count, and under which numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from deeplab.data.source import IGNORE_LABEL, Survey, check_values, ignore_label_of
from deeplab.data.upright import Stored
from deeplab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Selected(Survey):
    """Some classes of a survey, renumbered.

    Attributes:
        whole: what they are chosen from.
        table: see `select_classes`.
    """

    whole: Survey
    table: np.ndarray

    def __len__(self) -> int:
        return len(self.whole)

    def name(self, index: int) -> str:
        """See `Source`."""
        return self.whole.name(index)

    def files(self, index: int) -> tuple[str, str]:
        """See `Source`."""
        return self.whole.files(index)

    def at_hand(self, index: int) -> bool:
        """See `Source`."""
        return self.whole.at_hand(index)

    def photo(self, index: int) -> np.ndarray:
        """See `Source`."""
        return self.whole.photo(index)

    def embedded(self, index: int) -> tuple[bytes, str]:
        """See `Survey`."""
        return self.whole.embedded(index)

    def drawn(self, index: int) -> np.ndarray:
        """See `Survey`.

        Raises:
            UserError: also of a value that is no class.
        """
        labels = self.whole.drawn(index)
        check_values(self.whole, index, labels)
        return self.table[labels]

    def lies(self, index: int) -> Stored | None:
        """See `Survey`."""
        return self.whole.lies(index)


def selected(found: Survey, keep: Sequence[str] = (), *, other: str = "ignore") -> Survey:
    """A survey of any number of classes with those of `keep` alone; () keeps all, in their order.

    Raises:
        UserError: as `select_classes`; also if more classes are left than masks of 8 bits have values for.
    """
    if len(keep or found.classes) > IGNORE_LABEL:
        raise UserError(
            f"{len(keep or found.classes)} classes ({found.origin})",
            allowed=f"at most {IGNORE_LABEL}, as {IGNORE_LABEL} in a mask of 8 bits means ignored",
            fix="merge classes, or choose those that you want: data.classes in a recipe, --keep of a command",
        )
    if not keep or tuple(keep) == found.classes:
        return found
    table = select_classes(found.classes, keep, other=other, ignore_label=found.ignore_label)
    kept = {field.name: getattr(found, field.name) for field in fields(Survey)} | {"classes": tuple(keep)}
    return Selected(**kept, whole=found, table=table)


def select_classes(
    names: Sequence[str], keep: Sequence[str], *, other: str = "ignore", ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
    """A look-up table that renumbers masks so that `keep[i]` becomes class i.

    Args:
        names: class names of the masks, by index.
        keep: names that stay, in their new order, at most 255.
        other: what becomes of all other classes: "ignore", or "background" (which must be in `keep`).
        ignore_label: value that means ignore in the masks.

    Returns:
        uint8 [256], or of more names than 255 [65536]; every value that is no class of `names` maps to 255.

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
    table = np.full(ignore_label_of(len(names)) + 1, IGNORE_LABEL, dtype=np.uint8)
    if other == "background":
        table[: len(names)] = list(keep).index("background")
    for index, name in enumerate(keep):
        table[list(names).index(name)] = index
    table[ignore_label] = IGNORE_LABEL
    return table
