"""Which data set's palette a colour mask was drawn with, and which index each colour should become.

CamVid's colours are those of its 11-class split (SegNet's tutorial); the others are in `deeplab.imaging.palettes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from deeplab.data.source import IGNORE_LABEL
from deeplab.imaging.palettes import ADE20K, CITYSCAPES, CITYSCAPES_CLASSES, VOC_CLASSES, pascal

Colour = tuple[int, int, int]

_CAMVID = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
_ENOUGH = 0.98
_LEAST_COLOURS = 2


@dataclass(frozen=True)
class KnownPalette:
    """Class index of each colour of a data set; colours of no class have the ignore label."""

    name: str
    index_of: Mapping[Colour, int]
    classes: tuple[str, ...]

    def title(self, index: int) -> str:
        """The class's name, or its number where the palette has no names."""
        if index == IGNORE_LABEL:
            return "ignore"
        return self.classes[index] if index < len(self.classes) else f"class {index}"


def _table(palette: np.ndarray, count: int) -> dict[Colour, int]:
    return {tuple(colour): index for index, colour in enumerate(palette[:count].tolist())}


def _ade20k() -> dict[Colour, int]:
    # Entry 0 is "other"; two colours stand for two classes each, and the first class keeps them.
    table: dict[Colour, int] = {(0, 0, 0): IGNORE_LABEL}
    for index, colour in enumerate(ADE20K[1:].tolist()):
        table.setdefault(tuple(colour), index)
    return table


@lru_cache(maxsize=1)
def known_palettes() -> tuple[KnownPalette, ...]:
    """Palettes that masks are often drawn with."""
    from deeplab.data.layouts.ade20k import ADE20K_CLASSES
    from deeplab.data.layouts.camvid import CAMVID_CLASSES

    ignored = {(0, 0, 0): IGNORE_LABEL}
    void = {(224, 224, 192): IGNORE_LABEL}
    return (
        KnownPalette("Pascal VOC", _table(pascal(256), 21) | void, VOC_CLASSES),
        KnownPalette("CamVid", _table(np.array(_CAMVID), 11) | ignored, CAMVID_CLASSES),
        KnownPalette("Cityscapes", _table(CITYSCAPES, 19) | ignored, CITYSCAPES_CLASSES),
        KnownPalette("ADE20K", _ade20k(), ADE20K_CLASSES),
    )


def recognise(colours: Mapping[Colour, int]) -> KnownPalette | None:
    """The palette that accounts for nearly all pixels with at least two colours other than black, or None.

    Args:
        colours: pixels of each colour.
    """
    coloured = {colour: count for colour, count in colours.items() if colour != (0, 0, 0)}
    best = max(known_palettes(), key=lambda palette: _share(coloured, palette))
    return best if _share(coloured, best) >= _ENOUGH else None


def _share(colours: Mapping[Colour, int], palette: KnownPalette) -> float:
    """Share of the pixels whose colour the palette has; 0 if it has fewer than two of the colours."""
    hits = [count for colour, count in colours.items() if colour in palette.index_of]
    return sum(hits) / max(1, sum(colours.values())) if len(hits) >= _LEAST_COLOURS else 0.0


def suggest_indices(colours: Mapping[Colour, int], known: KnownPalette | None) -> dict[Colour, int]:
    """Class index for each colour, most frequent first.

    A known palette says; otherwise black is 0, then the colours by their number of pixels.
    """
    order = sorted(colours, key=lambda colour: (-colours[colour], colour))
    if known is not None:
        return {colour: known.index_of.get(colour, IGNORE_LABEL) for colour in order}
    black = [colour for colour in order if colour == (0, 0, 0)]
    return {colour: index for index, colour in enumerate(black + [c for c in order if c != (0, 0, 0)])}


def mapping_lines(colours: Mapping[Colour, int], known: KnownPalette | None, *, most: int = 24) -> list[str]:
    """The suggestion as text, a colour a line: the `most` frequent, by index."""
    total = max(1, sum(colours.values()))
    lines = []
    frequent = list(suggest_indices(colours, known).items())[:most]
    for colour, index in sorted(frequent, key=lambda pair: pair[1]):
        title = f" ({known.title(index)})" if known else ""
        lines.append(f"{colour} -> {index}{title}, {colours[colour] / total:.1%} of the pixels")
    if len(colours) > most:
        lines.append(f"and {len(colours) - most} more colours")
    return lines
