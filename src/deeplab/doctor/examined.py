"""Everything the rules look at: the data set's files as inspected, and what they should hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deeplab.doctor.class_list import ClassList
from deeplab.doctor.inspect import Inspected
from deeplab.doctor.mask_facts import MaskFacts
from deeplab.doctor.readers import Reader

# Values seen in runs of one pixel only, from so many on, are no classes but blurred edges.
_FEWEST_THIN = 5

STORED = 256
"""What is added to a stored value that is no class, to keep it apart from the classes."""


@dataclass(frozen=True)
class Examined:
    """A data set after inspection.

    Attributes:
        root: its folder.
        items: every pair, in the data set's order.
        classes: what the masks should hold.
        reader: how its pairs are read.
        decode: class of each stored value, where the two differ; `STORED` + the value where it is none.
        allowed: stored values that may be, in words, where they are other numbers than the classes'.
    """

    root: Path
    items: tuple[Inspected, ...]
    classes: ClassList
    reader: Reader
    decode: tuple[int, ...] | None = None
    allowed: str = ""

    def file(self, path: Path | None) -> str:
        """A path as findings name it: relative to the data set."""
        if path is None:
            return ""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def masks(self, items: Sequence[Inspected] | None = None) -> list[tuple[str, MaskFacts]]:
        """Name and facts of every readable mask."""
        chosen = self.items if items is None else items
        return [
            (self.file(item.pair.mask), item.mask) for item in chosen if item.mask and not item.mask.error
        ]

    def labelled(self) -> list[Inspected]:
        """Pairs whose mask holds class indices, right or wrong ones."""
        return [item for item in self.items if item.mask and is_index_mask(item.mask)]

    def decoded(self, mask: MaskFacts | None) -> dict[int, int]:
        """Pixels of each class of a mask, the ignore label and wrong values included; none of no mask."""
        if mask is None or self.decode is None:
            return {} if mask is None else mask.counts
        counts: dict[int, int] = {}
        for value, count in mask.counts.items():
            counts[self.decode[value]] = counts.get(self.decode[value], 0) + count
        return counts


def is_index_mask(mask: MaskFacts) -> bool:
    """Whether a mask's values can be class indices: the right kind of file, and no blurred edges."""
    return mask.holds_indices and not is_blurred(mask)


def is_blurred(mask: MaskFacts) -> bool:
    """Whether most values of an index mask occur in lines of one pixel, as resizing or blurring makes."""
    return mask.thin_values >= _FEWEST_THIN and 2 * mask.thin_values > len(mask.counts)
