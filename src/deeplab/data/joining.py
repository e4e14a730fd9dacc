"""How annotations find their photos: one rule for names, ids and places, for all layouts.

Names are compared as paths with forward slashes and composed letters (NFC), whichever system wrote them; ids as
numbers where they are written as such. Hidden files, also those that macOS leaves beside others (._a.jpg), do not
count.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deeplab.imaging.photos import PHOTO_SUFFIXES

LISTED_SUFFIXES = PHOTO_SUFFIXES | {".json"}
WHOLE_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")


def plain_name(name: str) -> str:
    """A name or path as it is compared: forward slashes, no ./ or / before it, no blanks around it, NFC.

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"{name!r} in the place of a name")
    path = unicodedata.normalize("NFC", name.replace("\\", "/")).strip(" \t\r\n\ufeff")
    return path.lstrip("/") if path.startswith("/") else path.removeprefix("./")


def without_suffix(name: str) -> str:
    """The name without the suffix of a photo or of a JSON; any other dot is part of the name."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in LISTED_SUFFIXES else name


def same_id(value: Any) -> int | str:
    """An id as it is compared: 4, 4.0, "4" and "0004" are one.

    Raises:
        TypeError: neither a whole number nor text.
    """
    if type(value) is int:
        return value
    text = value.strip() if isinstance(value, str) else repr(value)
    if not isinstance(value, bool) and WHOLE_NUMBER.fullmatch(text):
        return int(text.partition(".")[0])
    if isinstance(value, str) and text:
        return text
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise TypeError(f"{value!r} in the place of an id")


def distinct(candidates: Sequence[Sequence[str]]) -> list[str]:
    """For each sample the first of its names that no other one has, else the last: its full name.

    Args:
        candidates: names of each sample, from the shortest to the full one.
    """
    shared = Counter(name for names in candidates for name in dict.fromkeys(names))
    return [next((name for name in names if shared[name] == 1), names[-1]) for names in candidates]


def sample_names(files: Iterable[str]) -> list[str]:
    """The name of each sample by its photo's path: without the suffix, unless another one differs by that alone."""
    return distinct([(without_suffix(file), file) for file in files])


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """What matches in a folder, sorted, without hidden files and folders; a folder that is missing has nothing."""
    start = len(folder.as_posix())
    return sorted(path for path in folder.glob(pattern) if "/." not in path.as_posix()[start:])


def find_file(folders: Sequence[Path], name: str) -> Path:
    """The file of that name, which may be a path, in the first of the folders that has it, else where it should be.

    A path of another machine is found by as many of its last parts as there are here, and a name in composed letters
    by decomposed ones, and the other way round.
    """
    parts = plain_name(name).split("/")
    for start in range(len(parts)):
        whole = "/".join(parts[start:])
        forms = (whole,) if whole.isascii() else (whole, unicodedata.normalize("NFD", whole))
        for path in (folder / form for folder in folders for form in forms):
            if path.is_file():
                return path
    return folders[0] / plain_name(name)
