"""Which samples belong to a split, for data sets that have no split of their own.

In this order: a list (ROOT/SPLIT.txt or ROOT/splits/SPLIT.txt, or SPLIT itself if it names a text file); else, for
"train" and "val", a fixed fifth of the names goes to "val" by the hash of the name, so that a sample never changes
sides when others are added and the two never meet; "all" is everything.

Lists of photos and lists of classes are read here for all layouts.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from deeplab.data.joining import LISTED_SUFFIXES, plain_name, visible, without_suffix
from deeplab.errors import UserError
from deeplab.system.reading import foreign, read_bytes

VAL_SHARE = 0.2
# bytes of a list, some millions of names
LARGEST_LIST = 1 << 28
ALIASES = {"train": ("training",), "val": ("valid", "validation"), "test": ("testing",)}
# what a list beside the photos may be called; ROOT/splits may hold any
LIST_PREFIXES = ("train", "val", "test")
_SUFFIX = "|".join(sorted(suffix[1:] for suffix in LISTED_SUFFIXES))
TWO_COLUMNS = re.compile(rf"(.+\.(?:{_SUFFIX}))[\s,;]+\S.*\.(?:{_SUFFIX})", re.IGNORECASE)
CLASS_FILES = ("classes.txt", "labels.txt", "class_names.txt", "obj.names")
"""Where class names may stand beside photos and masks; the first one there counts."""


def read_names(path: Path) -> tuple[str, ...]:
    """Lines of a text file in composed letters, without empty ones and blanks around them.

    It may be UTF-8, or UTF-16 as Windows writes it.

    Raises:
        UserError: it cannot be read.
    """
    with foreign(path, "cannot be read as text", fix="save it as UTF-8"):
        stored = read_bytes(path, largest=LARGEST_LIST)
        text = stored.decode("utf-16" if stored[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    lines = unicodedata.normalize("NFC", text).splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names of a text file, one a line; lines that begin with # are remarks.

    Raises:
        UserError: it cannot be read.
    """
    return tuple(name for name in read_names(path) if not name.startswith("#"))


def names_file(names: Sequence[str]) -> Path | None:
    """The file that stands in the place of class names: one word that is a file, or looks like the path of one."""
    if len(names) == 1 and (Path(names[0]).is_file() or names[0].endswith(".txt") or "/" in names[0]):
        return Path(names[0])
    return None


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
    return tuple(plain_name(_first_column(line.replace("\\", "/"))) for line in read_names(path))


def _first_column(line: str) -> str:
    columns = line.split("\t")
    if len(columns) > 1:
        return columns[0]
    two = TWO_COLUMNS.fullmatch(line)
    if two or line.lower().endswith(tuple(LISTED_SUFFIXES)):
        return two[1] if two else line.partition(" /")[0]
    # two columns without suffixes are told by the second one being a path too
    return line.split()[0] if "/" in line.split()[-1] else line


def falls_into_val(name: str) -> bool:
    """Whether the hash of `name`, its suffix aside, puts it into "val"."""
    digest = hashlib.sha256(without_suffix(name).encode()).digest()
    return int.from_bytes(digest[:8], "big") < VAL_SHARE * 2**64


def lists(root: Path) -> dict[str, Path]:
    """The lists of names in ROOT and ROOT/splits, by split."""
    beside = [path for path in visible(root, "*.txt") if path.stem.startswith(LIST_PREFIXES)]
    return {path.stem: path for path in [*beside, *visible(root / "splits", "*.txt")]}


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


def choose(
    root: Path, names: Sequence[str], split: str, *, hashed: Sequence[str] = ("train", "val")
) -> list[str]:
    """Those of `names` that belong to `split`; a list may also hold names that are not among `names`.

    Where some splits have a file or folder of their own, a list or hash would take samples of theirs for another one:
    `hashed` names the splits that may be told so.

    Raises:
        UserError: no such split, or a name on the list that may be one of several.
    """
    found = lists(root)
    if split in ("train", "val") and split not in hashed and tuple(hashed) != tuple(found):
        raise UserError(
            f"{root} has no split {split!r}; splits found: {', '.join(hashed)}",
            fix="give it a file or folder of its own; what is named after no split is split by lists or by hash",
        )
    path = list_of(root, split)
    if path is not None:
        return matched(path, names)
    if split == "all":
        return list(names)
    if split in ("train", "val") and not found.keys() & {"train", "val"}:
        return [name for name in names if falls_into_val(name) == (split == "val")]
    raise UserError(
        f"{root} has no split {split!r}; lists found: {', '.join(found) or 'none'}",
        fix=f"write {root / (split + '.txt')} with one name a line, or take 'train', 'val' or 'all'",
    )


def the_only(files: Sequence[Path]) -> Path:
    """The file that all of a split's labels are from.

    Raises:
        UserError: there are several, such as exports of two days or two batches, of which one would count in silence.
    """
    if len(files) > 1:
        raise UserError(
            f"{files[0].parent} holds several files that may count: {', '.join(file.name for file in files)}",
            fix="leave one there, or merge them",
        )
    return files[0]


def matched(path: Path, names: Sequence[str]) -> list[str]:
    """The names on a list, each as it stands among `names`, once; those that are not among them as they are listed.

    A name on the list may lack leading folders or the suffix, or have more of them.

    Raises:
        UserError: the list cannot be read, or has a name that may be one of several.
    """
    endings: dict[str, set[str]] = {}
    for name in names:
        for whole in {name, without_suffix(name)}:
            for start in range(whole.count("/") + 1):
                endings.setdefault(whole.split("/", start)[start], set()).add(name)
    known, chosen = set(names), []
    listed_as: dict[str, str] = {}
    for listed in dict.fromkeys(picture_names(path)):
        name = _match(listed, known, endings, path)
        if listed_as.setdefault(name, listed) != listed:
            raise UserError(
                f"{listed_as[name]!r} and {listed!r} are both of {name}", fix="write it once", file=path
            )
        chosen.append(name)
    return chosen


def _match(listed: str, known: set[str], endings: dict[str, set[str]], path: Path) -> str:
    """See `matched`: one of the two names is how the other one ends."""
    short = without_suffix(listed)
    for start in range(listed.count("/") + 1):
        for form in (listed.split("/", start)[start], short.split("/", start)[start]):
            if form in known:
                return form
            found = {name for name in endings.get(form, ()) if start == 0 or without_suffix(name) == form}
            if len(found) == 1:
                return found.pop()
            if found:
                raise UserError(
                    f"{listed!r} may be {' or '.join(sorted(found))}", fix="write the whole name", file=path
                )
    return short
