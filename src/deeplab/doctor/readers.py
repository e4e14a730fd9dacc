"""How the doctor reads a pair: from two picture files, or through its layout's own decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from deeplab.data.source import Survey
from deeplab.data.upright import UPRIGHT, DrawnOn, stored, turned_upright
from deeplab.doctor.mask_facts import MaskFacts, label_facts, mask_facts
from deeplab.doctor.photo_facts import PhotoFacts, photo_facts
from deeplab.errors import UserError
from deeplab.imaging.bands import read_stored, viewable
from deeplab.imaging.photos import read_photo
from deeplab.imaging.pictures import opened_picture


@dataclass(frozen=True)
class Pair:
    """A photo and its mask; one of them is None if it is missing, both if only a list names them.

    `index` is the sample's place in its split, -1 if it lacks a file.
    """

    name: str
    split: str
    photo: Path | None
    mask: Path | None
    index: int = 0


class Reader(Protocol):
    """Reads pairs; sent to every process, so it must be picklable."""

    def photo_facts(self, pair: Pair) -> PhotoFacts | None: ...

    def mask_facts(self, pair: Pair) -> MaskFacts | None: ...

    def photo(self, pair: Pair) -> np.ndarray:
        """uint8 [H, W, 3], upright, as a person can look at it."""
        ...

    def labels(self, pair: Pair) -> np.ndarray:
        """Integers [H, W]: class indices, the ignore label, or whatever wrong value is stored."""
        ...


@dataclass(frozen=True)
class FileReader:
    """Photos and masks that are picture files.

    Attributes:
        decode: the class of each stored value 0..255; None where they are the classes.
        drawn_on: see `deeplab.data.upright.turned_upright`.
    """

    decode: tuple[int, ...] | None = None
    drawn_on: DrawnOn = "auto"

    def photo_facts(self, pair: Pair) -> PhotoFacts | None:
        """None if the photo is missing."""
        return photo_facts(pair.photo) if pair.photo else None

    def mask_facts(self, pair: Pair) -> MaskFacts | None:
        """None if the mask is missing."""
        return mask_facts(pair.mask) if pair.mask else None

    def photo(self, pair: Pair) -> np.ndarray:
        """See `Reader`."""
        return _seen(_present(pair.photo))

    def labels(self, pair: Pair) -> np.ndarray:
        """See `Reader`."""
        with opened_picture(_present(pair.mask)) as image:
            values = np.array(image).astype(np.int64)
        labels = values if self.decode is None else np.array(self.decode)[values]
        if pair.photo is None:
            return labels
        return turned_upright(labels, partial(stored, pair.photo), drawn_on=self.drawn_on)


@dataclass(frozen=True)
class SourceReader:
    """Splits whose labels are no picture files of indices; values are class indices already."""

    sources: Mapping[str, Survey]

    def photo_facts(self, pair: Pair) -> PhotoFacts | None:
        """The layout's own message where it cannot find a photo that is no file; None if the photo is missing."""
        if pair.photo is None or pair.index < 0 or pair.photo.is_file():
            return photo_facts(pair.photo) if pair.photo else None
        source = self.sources[pair.split]
        try:
            facts = photo_facts(*source.embedded(pair.index))
            if facts.orientation == UPRIGHT or source.lies(pair.index) is not None:
                return facts
            # whether or not this layout turns it
            height, width = self.photo(pair).shape[:2]
            return replace(facts, size=(width, height), orientation=UPRIGHT)
        except UserError as error:
            return PhotoFacts(error=str(error))

    def mask_facts(self, pair: Pair) -> MaskFacts | None:
        """Of the labels as drawn; the layout's own message where it cannot read them; None if a file is missing."""
        if pair.index < 0:
            return None
        try:
            return label_facts(self.sources[pair.split].drawn(pair.index))
        except UserError as error:
            return MaskFacts(error=str(error))

    def photo(self, pair: Pair) -> np.ndarray:
        """See `Reader`."""
        if pair.photo is not None and pair.photo.is_file():
            return _seen(pair.photo)
        source = self.sources[pair.split]
        try:
            return source.photo(pair.index)
        except UserError:
            content, name = source.embedded(pair.index)
            return viewable(read_stored(content, name=name))

    def labels(self, pair: Pair) -> np.ndarray:
        """See `Reader`."""
        return self.sources[pair.split].label(pair.index)


def _seen(path: Path) -> np.ndarray:
    """As RGB where it is that, else its first bands."""
    try:
        return read_photo(path)
    except UserError:
        return viewable(read_stored(path))


def _present(path: Path | None) -> Path:
    if path is None:
        raise UserError("this pair lacks a file")
    return path
