"""A split that lies on disk as one photo file and one mask or annotation file a sample."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab.data.source import Survey, Unpaired
from deeplab.errors import UserError
from deeplab.imaging.photos import PHOTO_SUFFIXES, read_photo

REPORT = "check.json"
"""The doctor's report: pictures beside it are the doctor's own."""


class Item(NamedTuple):
    """One sample: its name, its photo, and the file that its labels come from."""

    name: str
    photo: Path
    mask: Path


@dataclass(frozen=True, kw_only=True)
class StoredSplit(Survey):
    """A `Survey` of such files.

    Attributes:
        read: the labels of an item, uint8 [H, W]. Workers receive a copy, so it must be picklable.
    """

    items: tuple[Item, ...]
    read: Callable[[Item], np.ndarray]

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        """See `Source`."""
        return self.items[index].name

    def files(self, index: int) -> tuple[str, str]:
        """See `Source`."""
        return str(self.items[index].photo), str(self.items[index].mask)

    def photo(self, index: int) -> np.ndarray:
        """See `Source`."""
        return read_photo(self.items[index].photo)

    def label(self, index: int) -> np.ndarray:
        """See `Source`."""
        return self.read(self.items[index])


class Listing(NamedTuple):
    """Files of a folder by name, those whose name another one has already, and what follows the name of a mask."""

    folder: Path
    files: dict[str, Path]
    double: tuple[Path, ...] = ()
    ending: str = ".png"


def listing(folder: Path, files: Iterable[Path], *, ending: str = "") -> Listing:
    """The first file of each name: its path below `folder` without suffix and `ending`; others are no candidates."""
    found: dict[str, Path] = {}
    double = []
    for file in files:
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name.endswith(ending) and found.setdefault(name.removesuffix(ending), file) is not file:
            double.append(file)
    return Listing(folder, found, tuple(double))


def by_stem(folder: Path, suffixes: Iterable[str] = PHOTO_SUFFIXES) -> Listing:
    """Files in `folder` (not below) with one of these suffixes, by name without suffix, sorted."""
    if not folder.is_dir():
        return Listing(folder, {})
    wanted = frozenset(suffixes)
    return listing(
        folder,
        (path for path in sorted(folder.iterdir()) if path.suffix.lower() in wanted and path.name[0] != "."),
    )


def pictures(folder: Path) -> Iterator[Path]:
    """Picture files in a folder and below, sorted, without hidden ones and the doctor's own.

    A folder that is missing has none.
    """
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if REPORT in names:
            continue
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES:
                yield Path(parent, name)


def paired(
    photos: Listing,
    masks: Listing,
    names: Sequence[str] | None = None,
    *,
    classes: tuple[str, ...],
    origin: str,
    read: Callable[[Item], np.ndarray],
) -> StoredSplit:
    """The split of these names, or of all photos and masks by the alphabet, with what is missing.

    Args:
        photos: files by name.
        masks: files by name.
        names: of the samples, in order.
        classes: see `Survey`.
        origin: see `Survey`.
        read: see `StoredSplit`.
    """
    known = photos.files.keys() | masks.files.keys()
    items, unpaired, missing = [], [], []
    for name in sorted(known) if names is None else names:
        photo, mask = photos.files.get(name), masks.files.get(name)
        if photo and mask:
            items.append(Item(name, photo, mask))
            continue
        unpaired.append(Unpaired(name, photo, mask))
        if not photo:
            missing.append(f"photo {name} in {photos.folder}")
        if not mask:
            missing.append(f"mask {name}{masks.ending} in {masks.folder}")
    return StoredSplit(
        classes=classes,
        origin=origin,
        items=tuple(items),
        missing=tuple(missing),
        unpaired=tuple(unpaired),
        double=(*photos.double, *masks.double),
        unlisted=frozenset() if names is None else frozenset(known.difference(names)),
        read=read,
    )


def require_folder(folder: Path) -> Path:
    """`folder` itself.

    Raises:
        UserError: it is not there; the message lists what is.
    """
    if not folder.is_dir():
        beside = folder.parent
        found = ", ".join(sorted(path.name for path in beside.iterdir())[:12]) if beside.is_dir() else ""
        raise UserError(
            f"{folder} is missing; found in {beside}: {found or 'nothing'}; fix: put it there, or name another"
        )
    return folder
