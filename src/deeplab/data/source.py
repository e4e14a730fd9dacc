"""What every data set looks like to the rest of the package, however it is stored.

A `Source` is one split as it lies on disk: it names, reads and decodes; `deeplab.data.dataset` makes samples of
it. What a layout finds is a `Survey`: a source that also says what is missing, double or left over, and refuses
nothing. `deeplab.data.opening.open_complete` adds the refusal, `deeplab.doctor` its rules. Nothing here needs torch,
so that data sets can be looked at quickly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from deeplab.data.upright import DrawnOn, Stored, turned_upright
from deeplab.errors import UserError
from deeplab.imaging.bands import Bands

IGNORE_LABEL = 255
WIDE_IGNORE_LABEL = 65_535


def ignore_label_of(classes: int) -> int:
    """The value that means ignore in labels of so many classes: above all of them."""
    return IGNORE_LABEL if classes <= IGNORE_LABEL else WIDE_IGNORE_LABEL


def label_type(classes: int) -> type[np.uint8 | np.uint16]:
    """What labels of so many classes, and the one to ignore, are kept in."""
    return np.uint8 if classes <= IGNORE_LABEL else np.uint16


class Source(Protocol):
    """One split of a data set as it is stored.

    Attributes:
        classes: names by index of the labels that `label` gives.
        ignore_label: value of `label` that is no class, 255; 65535 beside more classes than 255.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def ignore_label(self) -> int: ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Short and unique within the split, for messages and file names."""
        ...

    def files(self, index: int) -> tuple[str, str]:
        """Photo and mask as a user would name them: a path, or SHARD:NUMBER; nothing is read or fetched."""
        ...

    def at_hand(self, index: int) -> bool:
        """Whether the sample lies on this machine, and reading it fetches nothing."""
        ...

    def photo(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3] RGB, upright; or the bands that were asked for, [H, W, bands].

        Raises:
            UserError: names the file.
        """
        ...

    def label(self, index: int) -> np.ndarray:
        """uint8 [H, W], class indices or `ignore_label`; uint16 of more classes than 255.

        Raises:
            UserError: names the file.
        """
        ...


class Unpaired(NamedTuple):
    """A name of which the photo or the file of its labels is not there, or both."""

    name: str
    photo: Path | None
    mask: Path | None


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is in one split of a folder: the samples that are whole (see `Source`), and what is wrong with the rest.

    Attributes:
        classes: names by index; empty where nothing in the folder names them.
        origin: where the names are from, for messages.
        missing: what the split asks for and is not there, each with what asks for it; its samples are left out.
        unpaired: the same by name, where samples are a photo file and a mask file.
        double: files whose name another one of their folder has too, but for its suffix.
        stray: annotations of photos or classes that the data set does not list, each in words; they are left out.
        bad: annotations that paint nothing, such as outlines without points, each in words; they are left out.
        unannotated: photos that lie there and that nothing annotates; they are left out.
        unlisted: names that lie there and are not of this split.
        drawn_on: which photo the labels were drawn on; see `deeplab.data.upright.turned_upright`.
        bands: how photos are to be read; None for 8-bit RGB.
    """

    classes: tuple[str, ...]
    origin: str
    missing: tuple[str, ...] = ()
    unpaired: tuple[Unpaired, ...] = ()
    double: tuple[Path, ...] = ()
    stray: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    unannotated: tuple[Path, ...] = ()
    unlisted: frozenset[str] = frozenset()
    drawn_on: DrawnOn = "auto"
    bands: Bands | None = None

    @property
    def ignore_label(self) -> int:
        """See `Source`."""
        return ignore_label_of(len(self.classes))

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, index: int) -> str:
        """See `Source`."""
        raise NotImplementedError

    def files(self, index: int) -> tuple[str, str]:
        """See `Source`."""
        raise NotImplementedError

    def at_hand(self, index: int) -> bool:
        """See `Source`."""
        return True

    def photo(self, index: int) -> np.ndarray:
        """See `Source`."""
        raise NotImplementedError

    def embedded(self, index: int) -> tuple[bytes, str]:
        """Of a photo that lies within another file: the bytes of its own, and what messages call them."""
        raise NotImplementedError

    def drawn(self, index: int) -> np.ndarray:
        """Labels as they were drawn, on the upright photo or on the stored one; otherwise as `label`."""
        raise NotImplementedError

    def lies(self, index: int) -> Stored | None:
        """How the photo lies in its file; None where it is taken as it is there."""
        raise NotImplementedError

    def label(self, index: int) -> np.ndarray:
        """See `Source`."""
        return turned_upright(self.drawn(index), partial(self.lies, index), drawn_on=self.drawn_on)


def check_sample(source: Source, index: int, *, image: np.ndarray, label: np.ndarray) -> None:
    """See that photo and mask have one size and every value is a class or `ignore_label`.

    Raises:
        UserError: they have not; it names the file, what was found and the fix.
    """
    photo_file, mask_file = source.files(index)
    if image.shape[:2] != label.shape:
        raise UserError(
            f"{mask_file} is {label.shape[1]}x{label.shape[0]} (width x height) but {photo_file} is "
            f"{image.shape[1]}x{image.shape[0]}",
            fix=(
                "make the mask again at the photo's size, upright as a viewer shows it (EXIF rotation "
                "applied)"
            ),
        )
    check_values(source, index, label)


def check_values(source: Source, index: int, label: np.ndarray) -> None:
    """See that every value is a class or `ignore_label`.

    Raises:
        UserError: one is not; it names the file, the place and the fix.
    """
    count = len(source.classes)
    wrong = (label >= count) & (label != source.ignore_label)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise UserError(
            f"{source.files(index)[1]}: value {label[row, column]} at row {row}, column {column} is no class",
            allowed=f"0..{count - 1}, and {source.ignore_label} for ignore",
            fix="correct the mask, or the number of classes",
        )
