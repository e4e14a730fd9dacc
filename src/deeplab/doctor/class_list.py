"""Which classes the masks are expected to hold: as asked, as a file beside the data says, or as found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeplab.doctor.places import IGNORE_LABEL, Layout
from deeplab.errors import UserError
from deeplab.labels import LabelSpec

_USUAL_FILES = ("classes.txt", "labels.txt", "class_names.txt", "obj.names")
_IGNORED_NAMES = ("ignore", "ignored", "void", "unlabeled", "unlabelled", "__ignore__", "_ignore_")

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
    root: Path,
    layout: Layout,
    *,
    classes: Sequence[str] = (),
    num_classes: int | None = None,
    ignore_label: int = IGNORE_LABEL,
) -> ClassList:
    """Names from `classes`, else a usual file in `root`, else the layout's, else numbers.

    Args:
        root: the data set's folder.
        layout: its layout.
        classes: names, or one path of a file with a name a line.
        num_classes: how many there should be.
        ignore_label: value of pixels that are no class.

    Raises:
        UserError: `classes` names a file that cannot be read, or a number is out of range.
    """
    if num_classes is not None and not 1 <= num_classes <= 256:
        raise UserError(f"--num-classes is {num_classes}; allowed: 1..256")
    if not 0 <= ignore_label <= 255:
        raise UserError(f"--ignore-label is {ignore_label}; allowed: 0..255, the values of an 8-bit mask")
    names, origin, listed = _names(root, layout, classes)
    problems = _list_problems(names, origin) if listed else ()
    if num_classes is not None and len(names) != num_classes:
        if listed and names:
            problems += (_counts_differ(len(names), num_classes, origin),)
        names, origin = tuple(f"class_{i}" for i in range(num_classes)), "--num-classes"
    return ClassList(names, origin, ignore_label, problems)


def numbered(count: int, classes: ClassList) -> ClassList:
    """The list with as many numbered names, for masks whose classes nobody named."""
    names = tuple(f"class_{index}" for index in range(count))
    return ClassList(names, MADE_UP, classes.ignore_label, classes.problems)


def colours_of(classes: ClassList) -> np.ndarray:
    """uint8 [classes, 3]: the data set's own colours where the names are known, else distinct ones."""
    if not classes.known:
        return np.zeros((0, 3), np.uint8)
    return np.array(LabelSpec.named(classes.names).palette, np.uint8)


def _names(root: Path, layout: Layout, classes: Sequence[str]) -> tuple[tuple[str, ...], str, bool]:
    """Names, origin, and whether somebody wrote them down."""
    if classes:
        return given_names(classes), classes[0] if _is_file(classes) else "--classes", True
    for name in _USUAL_FILES:
        if (root / name).is_file():
            return _read(root / name), name, True
    return layout.classes, f"layout {layout.name}", False


def given_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The names, read from the file if a file is given in their place.

    Raises:
        UserError: it cannot be read.
    """
    return _read(Path(classes[0])) if _is_file(classes) else tuple(classes)


def _is_file(classes: Sequence[str]) -> bool:
    if len(classes) != 1:
        return False
    return Path(classes[0]).is_file() or classes[0].endswith(".txt") or "/" in classes[0]


def _read(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a class list ({error}); fix: give a text file with one name a line"
        ) from error
    return tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))


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
    ignored = [name for name in names if name.lower() in _IGNORED_NAMES]
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
