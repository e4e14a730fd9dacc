"""What the doctor learns of a mask from one full decode: kind, size, and which values or colours it holds."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.doctor.colours import Colour
from deeplab.doctor.photo_facts import why_unreadable
from deeplab.imaging.pictures import opened_picture

INDEX_MODES = ("P", "L", "1")
MAX_COLOURS = 256
WIDE = 256
_FEW_VALUES = 8


@dataclass(frozen=True, slots=True)
class MaskFacts:
    """A mask in brief.

    Attributes:
        error: why it cannot be read; None if it can. The rest is then empty.
        size: width and height.
        mode: Pillow's pixel mode: P, L and 1 hold indices; RGB, RGBA and LA colours; I;16 and I wide integers.
        format: Pillow's name of the file format.
        counts: pixels of each value, for modes that hold integers.
        colours: pixels of each colour, at most 256 of them, for colour modes.
        many_colours: whether there were more.
        see_through: whether some pixel of a mask with transparency is not opaque.
        thin_values: values of which most pixels lie in runs of one pixel, as blurred edges make.
        palette: colour of each value that occurs, for mode P.
    """

    error: str | None = None
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    format: str = ""
    counts: dict[int, int] = field(default_factory=dict)
    colours: dict[Colour, int] = field(default_factory=dict)
    many_colours: bool = False
    see_through: bool = False
    thin_values: int = 0
    palette: dict[int, Colour] = field(default_factory=dict)

    @property
    def holds_indices(self) -> bool:
        """Whether pixel values can be taken as class indices."""
        narrow = self.mode in INDEX_MODES or (bool(self.counts) and max(self.counts) < WIDE)
        return self.error is None and narrow and self.format != "JPEG"


def mask_facts(path: Path) -> MaskFacts:
    """Read a mask; an unreadable one gives `error` instead of an exception."""
    try:
        with warnings.catch_warnings():
            # Odd metadata warn; the decoder's errors are what matters here.
            warnings.simplefilter("ignore")
            with opened_picture(path) as image:
                image.load()
                return _facts(image)
    # Damaged files make the decoders raise nearly anything: OSError, SyntaxError, struct.error, zlib.error.
    except Exception as error:
        return MaskFacts(error=why_unreadable(path, error))


def label_facts(labels: np.ndarray) -> MaskFacts:
    """Facts of a mask that is already decoded to class indices, uint8 [H, W]."""
    return _facts(Image.fromarray(labels))


def _facts(image: Image.Image) -> MaskFacts:
    kind = MaskFacts(size=image.size, mode=image.mode, format=image.format or "")
    if image.mode in INDEX_MODES:
        return _index_facts(image, kind)
    if image.mode in ("RGB", "RGBA", "LA", "PA", "CMYK"):
        return _colour_facts(image, kind)
    values, counts = np.unique(np.asarray(image), return_counts=True)
    whole = np.issubdtype(values.dtype, np.integer)
    table = dict(zip(values.tolist(), counts.tolist(), strict=True)) if whole else {}
    return replace(kind, counts=table)


def _index_facts(image: Image.Image, kind: MaskFacts) -> MaskFacts:
    histogram = image.convert("L").histogram() if image.mode == "1" else image.histogram()
    if image.mode == "1":
        histogram = [histogram[0], histogram[255]]
    counts = {value: count for value, count in enumerate(histogram) if count}
    thin = _thin_values(np.asarray(image)) if len(counts) > _FEW_VALUES else 0
    return replace(kind, counts=counts, thin_values=thin, palette=_palette(image, counts))


def _palette(image: Image.Image, counts: dict[int, int]) -> dict[int, Colour]:
    flat = image.getpalette("RGB") if image.mode == "P" else None
    if not flat:
        return {}
    return {v: tuple(flat[3 * v : 3 * v + 3]) for v in counts if 3 * v + 3 <= len(flat)}


def _thin_values(values: np.ndarray) -> int:
    """How many values occur mostly in runs of one pixel, across or down; uint8 [H, W]."""
    left_or_right = np.zeros(values.shape, bool)
    up_or_down = np.zeros(values.shape, bool)
    same = values[:, 1:] == values[:, :-1]
    left_or_right[:, 1:] |= same
    left_or_right[:, :-1] |= same
    same = values[1:] == values[:-1]
    up_or_down[1:] |= same
    up_or_down[:-1] |= same
    thin = np.bincount(values[~(left_or_right & up_or_down)], minlength=256)
    total = np.bincount(values.ravel(), minlength=256)
    return int(((total > 0) & (2 * thin > total)).sum())


def _colour_facts(image: Image.Image, kind: MaskFacts) -> MaskFacts:
    see_through = False
    if image.mode in ("RGBA", "LA", "PA"):
        see_through = any(image.getchannel("A").histogram()[:255])
    found = image.convert("RGB").getcolors(maxcolors=MAX_COLOURS)
    colours = {colour: count for count, colour in found or () if isinstance(colour, tuple)}
    return replace(kind, colours=colours, many_colours=found is None, see_through=see_through)
