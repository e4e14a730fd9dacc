"""Which samples belong to a split, for data sets that have no split of their own.

In this order: a list (ROOT/SPLIT.txt or ROOT/splits/SPLIT.txt); else, for "train" and "val", a fixed fifth
of the names goes to "val" by the hash of the name, so that a sample never changes sides when others are added
and the two never meet; "all" is everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from deeplab.errors import UserError

VAL_SHARE = 0.2
ALIASES = {"train": ("training",), "val": ("valid", "validation"), "test": ("testing",)}
# what a list beside the photos may be called; ROOT/splits may hold any
LIST_PREFIXES = ("train", "val", "test")


def read_names(path: Path) -> tuple[str, ...]:
    """Lines of a text file, without empty ones.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}); fix: replace the file") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UserError(f"{path} is empty; fix: write one name a line")
    return names


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


def choose(root: Path, names: Sequence[str], split: str) -> list[str]:
    """Those of `names` that belong to `split`; a list may also hold names that are not among `names`.

    Raises:
        UserError: no such split, or no sample in it.
    """
    found = lists(root)
    if split in found:
        known = set(names)
        return [name if name in known else Path(name).stem for name in read_names(found[split])]
    if split == "all":
        chosen = list(names)
    elif split in ("train", "val") and not found.keys() & {"train", "val"}:
        chosen = [name for name in names if falls_into_val(name) == (split == "val")]
    else:
        raise UserError(
            f"{root} has no split {split!r}; lists found: {', '.join(found) or 'none'}; "
            f"fix: write {root / (split + '.txt')} with one name a line, or take 'train', 'val' or 'all'"
        )
    if not chosen:
        raise UserError(
            f"split {split!r} of {root} is empty: the hash of their names puts none of its {len(names)} samples "
            f"there; fix: write {root / 'train.txt'} and {root / 'val.txt'} with one name a line"
        )
    return chosen
