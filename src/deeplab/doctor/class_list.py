"""Which classes the masks are expected to hold: as asked, as the data set says, or as found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deeplab.config.labels import LabelSpec
from deeplab.data.label_rules import IGNORED_NAMES
from deeplab.data.layouts.splits import CLASS_FILES, names_file
from deeplab.data.source import IGNORE_LABEL
from deeplab.errors import UserError

# Origin of class lists that nobody gave.
MADE_UP = "the masks"


@dataclass(frozen=True)
class ClassList:
    """Names by index, and where they come from.

    Attributes:
        names: one per class; empty if nothing says how many classes there are.
        origin: for messages, such as "classes.txt" or "--num-classes".
        ignore_label: value of pixels that are no class.
        problems: what is wrong with the list itself, each a sentence with its fix.
    """

    names: tuple[str, ...]
    origin: str
    ignore_label: int
    problems: tuple[tuple[str, str], ...] = ()

    @property
    def known(self) -> bool:
        """Whether anything said how many classes there are."""
        return bool(self.names)

    def name(self, index: int) -> str:
        """The name of a class, or its number where there is none."""
        return self.names[index] if index < len(self.names) else f"class_{index}"


def resolve_classes(
    said: tuple[str, ...],
    origin: str,
    classes: Sequence[str] = (),
    num_classes: int | None = None,
    ignore_label: int = IGNORE_LABEL,
) -> ClassList:
    """Names from `classes`, else what the data set says, else numbers.

    Args:
        said: names of the data set's survey; with `classes` given, those.
        origin: where the survey has them from.
        classes: names, or one path of a file with a name a line.
        num_classes: how many there should be.
        ignore_label: value of pixels that are no class.

    Raises:
        UserError: a number is out of range.
    """
    if num_classes is not None and not 1 <= num_classes <= 256:
        raise UserError(f"--num-classes is {num_classes}", allowed="1..256")
    if not 0 <= ignore_label <= 255:
        raise UserError(f"--ignore-label is {ignore_label}", allowed="0..255, the values of an 8-bit mask")
    if classes:
        origin = classes[0] if names_file(classes) else "--classes"
    listed = bool(classes) or origin in CLASS_FILES
    problems = _list_problems(said, origin) if listed else ()
    if num_classes is not None and len(said) != num_classes:
        if listed and said:
            problems += (_counts_differ(len(said), num_classes, origin),)
        said, origin = tuple(f"class_{i}" for i in range(num_classes)), "--num-classes"
    return ClassList(said, origin, ignore_label, problems)


def numbered(count: int, classes: ClassList) -> ClassList:
    """The list with as many numbered names, for masks whose classes nobody named."""
    names = tuple(f"class_{index}" for index in range(count))
    return ClassList(names, MADE_UP, classes.ignore_label, classes.problems)


def colours_of(classes: ClassList) -> np.ndarray:
    """uint8 [classes, 3]: the data set's own colours where the names are known, else distinct ones."""
    if not classes.known:
        return np.zeros((0, 3), np.uint8)
    return np.array(LabelSpec.named(classes.names).palette, np.uint8)


def _list_problems(names: tuple[str, ...], origin: str) -> tuple[tuple[str, str], ...]:
    if not names:
        return (
            (f"{origin} names no class", "Write one class name a line, in the order of the mask values."),
        )
    problems = []
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        problems.append(
            (f"{origin} holds {', '.join(twice)} more than once", "Give each class a name of its own.")
        )
    ignored = [name for name in names if name.lower() in IGNORED_NAMES]
    if ignored:
        problems.append(
            (
                f"{origin} lists {', '.join(ignored)} as a class",
                "Take it off the list and give its mask value as --ignore-label: ignore is a value, not a class.",
            )
        )
    return tuple(problems)


def _counts_differ(listed: int, asked: int, origin: str) -> tuple[str, str]:
    return (
        f"{origin} names {listed} classes but --num-classes is {asked}",
        "Give one of the two, or make them agree; the ignore label is not counted.",
    )
