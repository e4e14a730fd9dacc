"""Which samples belong to a split, for data sets that have no split of their own.

In this order: a list (ROOT/SPLIT.txt or ROOT/splits/SPLIT.txt, or SPLIT itself if it names a text file); else, for
"train" and "val", a fixed fifth of the names goes to "val" by the hash of the name, so that a sample never changes
sides when others are added and the two never meet; "all" is everything.

Lists of photos and lists of classes are read here for all layouts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from deeplab.errors import UserError
from deeplab.imaging.photos import PHOTO_SUFFIXES

VAL_SHARE = 0.2
ALIASES = {"train": ("training",), "val": ("valid", "validation"), "test": ("testing",)}
# what a list beside the photos may be called; ROOT/splits may hold any
LIST_PREFIXES = ("train", "val", "test")
LISTED_SUFFIXES = PHOTO_SUFFIXES | {".json"}
CLASS_FILES = ("classes.txt", "labels.txt", "class_names.txt", "obj.names")
"""Where class names may stand beside photos and masks; the first one there counts."""


def read_names(path: Path) -> tuple[str, ...]:
    """Lines of a text file, without empty ones.

    Raises:
        UserError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}); fix: replace the file") from error
    return tuple(line.strip() for line in lines if line.strip())


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names of a text file, one a line; lines that begin with # are remarks.

    Raises:
        UserError: it cannot be read.
    """
    return tuple(name for name in read_names(path) if not name.startswith("#"))


def class_names(
    root: Path, given: tuple[str, ...] | None, otherwise: tuple[str, ...] = (), *, layout: str = ""
) -> tuple[tuple[str, ...], str]:
    """Names of the classes for layouts that leave them to the user, and where they are from.

    Args:
        root: the data set's folder.
        given: names from a recipe or a command line, which count first; then one of `CLASS_FILES` in `root`.
        otherwise: what counts without both.
        layout: what to call the origin of `otherwise`.

    Raises:
        UserError: the file cannot be read.
    """
    if given:
        return given, "the names given"
    for file in CLASS_FILES:
        if (root / file).is_file():
            return read_classes(root / file), file
    return otherwise, f"layout {layout}"


def picture_names(path: Path) -> tuple[str, ...]:
    """Names on a list of photos as other tools write it, too.

    A line may be a name or a path, with the slashes of either system, with or without suffix, and a mask's path may
    follow; a name may hold blanks.

    Raises:
        UserError: the list cannot be read.
    """
    lines = (line.replace("\\", "/") for line in read_names(path))
    # two columns are told by the second one being a path too
    firsts = (line.split()[0] if "/" in line.split()[-1] else line for line in lines)
    return tuple(_without_suffix(name.lstrip("/")) for name in firsts)


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in LISTED_SUFFIXES else name


def falls_into_val(name: str) -> bool:
    """Whether the hash of `name` puts it into "val"."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < VAL_SHARE * 2**64


def lists(root: Path) -> dict[str, Path]:
    """The lists of names in ROOT and ROOT/splits, by split."""
    beside = [path for path in sorted(root.glob("*.txt")) if path.stem.startswith(LIST_PREFIXES)]
    return {path.stem: path for path in [*beside, *sorted((root / "splits").glob("*.txt"))]}


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of that split under one of its usual names ("val": also "valid", "validation")."""
    for name in (split, *ALIASES.get(split, ())):
        if (root / name).is_dir():
            return root / name
    return None


def available(root: Path) -> tuple[str, ...]:
    """Splits that `choose` knows for `root`."""
    return tuple(lists(root)) or ("train", "val")


def list_of(root: Path, split: str) -> Path | None:
    """The list of that split, or the text file that `split` names itself."""
    named = (root / split, Path(split))
    return lists(root).get(split) or next((path for path in named if path.is_file()), None)


def choose(root: Path, names: Sequence[str], split: str) -> list[str]:
    """Those of `names` that belong to `split`; a list may also hold names that are not among `names`.

    Raises:
        UserError: no such split.
    """
    path = list_of(root, split)
    if path is not None:
        return matched(picture_names(path), names)
    if split == "all":
        return list(names)
    found = lists(root)
    if split in ("train", "val") and not found.keys() & {"train", "val"}:
        return [name for name in names if falls_into_val(name) == (split == "val")]
    raise UserError(
        f"{root} has no split {split!r}; lists found: {', '.join(found) or 'none'}; "
        f"fix: write {root / (split + '.txt')} with one name a line, or take 'train', 'val' or 'all'"
    )


def matched(listed: Sequence[str], names: Sequence[str]) -> list[str]:
    """`listed`, each as it stands among `names`: whole, or by its last part if only one of `names` ends so."""
    by_last: dict[str, set[str]] = {}
    for name in names:
        last = name.rpartition("/")[2]
        for key in (last, _without_suffix(last)):
            by_last.setdefault(key, set()).add(name)
    known, chosen = set(names), []
    for name in listed:
        same = by_last.get(name.rpartition("/")[2], set())
        chosen.append(name if name in known else next(iter(same)) if len(same) == 1 else name)
    return chosen
