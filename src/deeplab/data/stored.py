"""A split that lies on disk as one photo file and one mask or annotation file a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab.data.source import IGNORE_LABEL
from deeplab.errors import UserError
from deeplab.imaging.photos import PHOTO_SUFFIXES, read_photo


class Item(NamedTuple):
    """One sample: its name, its photo, and the file that its labels come from."""

    name: str
    photo: Path
    mask: Path


@dataclass(frozen=True, kw_only=True)
class StoredSplit:
    """A `deeplab.data.source.Source` of such files.

    Attributes:
        read: the labels of an item, uint8 [H, W]. Workers receive a copy, so it must be picklable.
    """

    classes: tuple[str, ...]
    items: tuple[Item, ...]
    read: Callable[[Item], np.ndarray]
    missing: tuple[str, ...] = ()
    ignore_label: int = IGNORE_LABEL

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


def by_stem(folder: Path, suffixes: Iterable[str] = PHOTO_SUFFIXES) -> dict[str, Path]:
    """Files in `folder` (not below) with one of these suffixes, by name without suffix, sorted."""
    if not folder.is_dir():
        return {}
    wanted = frozenset(suffixes)
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in wanted)
    return {path.stem: path for path in files if not path.name.startswith(".")}


def pair(
    names: Sequence[str], photos: dict[str, Path], masks: dict[str, Path], *, folders: tuple[Path, Path]
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Items for the names that have photo and mask, and what is missing for the others.

    Args:
        names: of the samples, in order.
        photos: files by name.
        masks: files by name.
        folders: where photos and masks were looked for, for the messages.
    """
    items, missing = [], []
    for name in names:
        if name in photos and name in masks:
            items.append(Item(name, photos[name], masks[name]))
        if name not in photos:
            missing.append(f"photo {name} in {folders[0]}")
        if name not in masks:
            missing.append(f"mask {name}.png in {folders[1]}")
    return tuple(items), tuple(missing)


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
