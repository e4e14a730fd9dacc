"""A split that lies on disk as one photo file and one mask or annotation file a sample."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab.data.joining import distinct, plain_name, visible, without_suffix
from deeplab.data.source import Survey, Unpaired
from deeplab.data.upright import Stored, stored
from deeplab.errors import UserError
from deeplab.imaging.photos import PHOTO_SUFFIXES, read_photo
from deeplab.system.reading import foreign

REPORT = "check.json"
"""The doctor's report: pictures beside it are the doctor's own."""
PHOTO_WORDS = ("image", "img")
MASK_WORDS = ("mask", "masks", "label", "labels", "labelids", "seg", "gt", "annotation", "l", *PHOTO_WORDS)
"""Words before or after the name that photo and mask have in common."""


class Item(NamedTuple):
    """One sample: its name, its photo, and the file that its labels come from."""

    name: str
    photo: Path
    mask: Path


@dataclass(frozen=True, kw_only=True)
class StoredSplit(Survey):
    """A `Survey` of such files.

    Attributes:
        read: the labels of an item as they were drawn, uint8 [H, W]. Workers receive a copy, so it must be picklable.
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
        return read_photo(self.items[index].photo, self.bands)

    def drawn(self, index: int) -> np.ndarray:
        """See `Survey`."""
        item = self.items[index]
        with foreign(item.mask):
            return self.read(item)

    def lies(self, index: int) -> Stored | None:
        """See `Survey`."""
        return stored(self.items[index].photo)


class Listing(NamedTuple):
    """Files of a folder by name, those whose name another one has too, and what follows the name of a mask."""

    folder: Path
    files: dict[str, Path]
    double: tuple[Path, ...] = ()
    ending: str = ".png"


def listing(folder: Path, files: Iterable[Path], *, ending: str = "", flat: bool = False) -> Listing:
    """Files by name: their path below `folder` without suffix and `ending`; others are no candidates.

    Files that differ by their suffix alone have it in their names; of those that nothing tells apart the first counts.

    Args:
        folder: where they lie.
        files: there or below.
        ending: of the candidates' names, suffix aside.
        flat: whether names lack the folders, too, where that leaves them distinct.
    """
    chosen = [file for file in files if file.stem.endswith(ending)]
    wholes = [plain_name(file.relative_to(folder).as_posix()) for file in chosen]
    shorts = [
        whole.removesuffix(file.suffix).removesuffix(ending)
        for whole, file in zip(wholes, chosen, strict=True)
    ]
    lasts = [(short.rpartition("/")[2],) * flat for short in shorts]
    names = distinct(
        [(*last, short, whole) for last, short, whole in zip(lasts, shorts, wholes, strict=True)]
    )
    found: dict[str, Path] = {}
    for name, file in zip(names, chosen, strict=True):
        found.setdefault(name, file)
    shared = Counter(shorts)
    double = [file for short, file in zip(shorts, chosen, strict=True) if shared[short] > 1]
    return Listing(folder, found, tuple(double))


def by_stem(folder: Path, suffixes: Iterable[str] = PHOTO_SUFFIXES) -> Listing:
    """Files in `folder` (not below) with one of these suffixes, by name without suffix, sorted."""
    wanted = frozenset(suffixes)
    return listing(folder, (path for path in visible(folder) if path.suffix.lower() in wanted))


def by_photo(photos: Listing, masks: Listing) -> Listing:
    """Masks by the name of their photo; the rest by their own.

    That is the same name, else the same but for case and affixes, or the photo's with its suffix (a.jpg.png).
    """
    alone = {name: file for name, file in photos.files.items() if name not in masks.files}
    rest = {_core(name, MASK_WORDS): name for name in masks.files if name not in photos.files}
    photo_of: dict[str, str] = {}
    for name, file in alone.items():
        whole = plain_name(file.relative_to(photos.folder).as_posix())
        core = next((core for each in (whole, name) if (core := _core(each, PHOTO_WORDS)) in rest), None)
        if core is not None:
            photo_of[rest.pop(core)] = name
    return masks._replace(files={photo_of.get(name, name): mask for name, mask in masks.files.items()})


def _core(name: str, affixes: Sequence[str]) -> str:
    """The name without such words before or after it."""
    folder, _, last = name.lower().replace("-", "_").rpartition("/")
    words = last.replace(".", "_").split("_")
    while len(words) > 1 and words[-1] in affixes:
        words.pop()
    while len(words) > 1 and words[0] in affixes:
        words.pop(0)
    return f"{folder}/{'_'.join(words)}"


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
        masks: files by name, which may have one of `MASK_WORDS` at it where no mask has the photo's very name.
        names: of the samples, in order.
        classes: see `Survey`.
        origin: see `Survey`.
        read: see `StoredSplit`.
    """
    masks = by_photo(photos, masks)
    known = photos.files.keys() | masks.files.keys()
    double = set(photos.double)
    # of a.jpg and a.png no one knows which of them a mask a.png belongs to
    shared = {without_suffix(name) for name, photo in photos.files.items() if photo in double}
    items, unpaired, missing = [], [], []
    for name in sorted(known) if names is None else names:
        photo, mask = photos.files.get(name), masks.files.get(name)
        if photo and mask:
            items.append(Item(name, photo, mask))
            continue
        unpaired.append(Unpaired(name, photo, mask))
        remark = " (several photos differ by their suffix alone)" if without_suffix(name) in shared else ""
        if not photo:
            missing.append(f"photo {name} in {photos.folder}{remark}")
        if not mask:
            missing.append(f"mask {name}{masks.ending} in {masks.folder}{remark}")
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


def joined(
    names: Iterable[str], photos: Mapping[str, Path], notes: Mapping[str, Path] | Path
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Samples whose labels are drawn in annotation files, and what is missing.

    Args:
        names: of the samples, in order.
        photos: of the names that are annotated, whether there or not.
        notes: the file that annotates each, or the one that annotates all.

    Raises:
        UserError: two names are of one photo, so that one would lose its annotations.
    """
    items, missing = [], []
    taken: dict[Path, tuple[str, object]] = {}
    for name in names:
        photo, note = photos.get(name), notes if isinstance(notes, Path) else notes.get(name)
        if photo is None or note is None:
            missing.append(f"annotation of {name}{f' in {note}' if note else ''}")
        elif not os.path.isfile(photo):
            missing.append(f"photo {photo}, which {note} asks for")
        elif taken.setdefault(photo, (name, note)) != (name, note):
            other, other_note = taken[photo]
            raise UserError(
                f"two photos, {name} and {other} (of {other_note}), are one file here, {photo}",
                fix="keep the folders that tell them apart, rename one, or merge their annotations",
                file=note,
            )
        else:
            items.append(Item(name, photo, note))
    return tuple(items), tuple(missing)


def left_over(photos: Iterable[Path], annotated: Iterable[str]) -> tuple[Path, ...]:
    """Pictures in the folders of `photos` whose file name is not the last part of one of those that are annotated."""
    known = {plain_name(name).rpartition("/")[2] for name in annotated}
    return tuple(
        Path(entry.path)
        for folder in sorted({photo.parent for photo in photos})
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
        if entry.name[0] != "."
        and os.path.splitext(entry.name)[1].lower() in PHOTO_SUFFIXES
        and plain_name(entry.name) not in known
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
            f"{folder} is missing; found in {beside}: {found or 'nothing'}",
            fix="put it there, or name another",
        )
    return folder
