"""Photos that are more than 8-bit RGB: what they hold, which differ from the rest, and the model that reads them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deeplab.config import RGB, PixelConfig
from deeplab.doctor.examined import Examined
from deeplab.doctor.findings import Finding, Severity, of_files
from deeplab.doctor.photo_facts import Held
from deeplab.imaging.bands import HIGHEST
from deeplab.imaging.photos import FEW_LEVELS, STEP

PIXELS = "pixels.yaml"
_MOST_DETAILS = 5
# values beyond those seen that a photo may hold
_ROOM = 2


class _Photo(NamedTuple):
    """A readable photo; `held` is None where 8-bit RGB is all that it is."""

    path: Path | None
    split: str
    held: Held | None
    banded: bool

    @property
    def refused(self) -> bool:
        """Whether a model that takes RGB refuses it."""
        return self.held is not None and bool(self.held.refused)

    @property
    def kind(self) -> tuple[int, str] | None:
        """Its bands and their type; None for 8-bit grey and RGB."""
        return (self.held.bands, self.held.kind) if self.held else None

    @property
    def dark(self) -> bool:
        """Whether it is grey or colours of 16 bits of which 8 would keep few levels."""
        held = self.held
        plain = held is not None and (held.bands == 1 or (held.bands == len(RGB) and held.coloured))
        return bool(
            held
            and plain
            and self.refused
            and held.kind == "uint16"
            and (held.high - held.low) / STEP < FEW_LEVELS
        )


def band_findings(data: Examined) -> list[Finding]:
    """Photos that a model of RGB refuses or reads otherwise than one may think, and those unlike the rest."""
    photos, usual = _photos(data), _usual(_photos(data))
    alike = [photo for photo in photos if usual is None or photo.kind == usual]
    dark = [photo for photo in alike if photo.dark]
    banded = [photo for photo in alike if photo.banded]
    other = [photo for photo in alike if photo.refused and not photo.dark and not photo.banded]
    odd = [photo for photo in photos if photo.kind != usual] if usual else other
    # one model reads photos that are alike, whatever they are
    severity: Severity = "warning" if usual else "error"
    trained = f"train a model that reads them as they are, with what {PIXELS} says; or " if usual else ""
    return [
        *of_files(
            "photo-dark",
            severity,
            _files(data, dark),
            what="Photos of 16 bits use a small part of their range: scaled to 8 bits, few grey levels are left, so "
            "models that take RGB refuse them.",
            fix=_sentence(
                f"{trained}scale all photos alike, so that the sensor's range fills 0 to 65535, and label new ones so "
                "too."
            ),
            details=[
                f"{data.file(photo.path)} holds {photo.held.low:g} to {photo.held.high:g}, "
                f"{int((photo.held.high - photo.held.low) / STEP) + 1} levels of 256"
                for photo in dark[:_MOST_DETAILS]
                if photo.held
            ],
        ),
        *of_files(
            "photo-band",
            severity if any(photo.refused for photo in banded) else "warning",
            _files(data, banded),
            what="A photo has a further band, which is read as transparency: it is blended with white, or refused if "
            "most pixels of the band are neither clear nor opaque.",
            fix=_sentence(
                f"if the band is infrared or depth, {trained}save the colours alone; if it is transparency, this is "
                "right."
            ),
        ),
        *of_files(
            "photo-bands",
            "warning",
            _files(data, other if usual else []),
            what="Photos are no 8-bit RGB, and models that take that refuse them.",
            fix=_sentence(f"{trained}save their colours alone."),
            details=[_line(data, photo) for photo in other[:_MOST_DETAILS]],
        ),
        *of_files(
            "photo-differs",
            "error",
            _files(data, odd),
            what=f"Photos are of another kind than the rest, which {_said(usual)}: no model reads both.",
            fix="Save them as the others are, or move them away.",
            details=[_line(data, photo) for photo in odd[:_MOST_DETAILS]],
        ),
    ]


def measured_pixels(data: Examined) -> PixelConfig | None:
    """How a model reads these photos as they are stored, measured over those to train on; None where RGB does."""
    photos = _photos(data)
    if _usual(photos) is None:
        return None
    alike = [photo for photo in photos if photo.kind == _usual(photos)]
    held = [photo.held for photo in alike if photo.split == "train" and photo.held]
    held = held or [photo.held for photo in alike if photo.held]
    first, pixels = held[0], sum(one.pixels for one in held)
    means = [sum(band) / pixels for band in zip(*(one.sums for one in held), strict=True)]
    squares = [sum(band) / pixels for band in zip(*(one.squares for one in held), strict=True)]
    deviations = [math.sqrt(max(0.0, square - mean**2)) for square, mean in zip(squares, means, strict=True)]
    names = [f"band {index + 1}" for index in range(first.bands)]
    names[: len(RGB) * first.coloured] = RGB[: len(RGB) * first.coloured]
    return PixelConfig(
        bands=tuple(names),
        values=first.kind,
        range=_range(held),
        mean=tuple(map(_rounded, means)),
        # a band of one tone says nothing at any scale
        std=tuple(_rounded(deviation) or 1.0 for deviation in deviations),
    )


def pixels_yaml(pixels: PixelConfig) -> str:
    """What reads such photos as it stands in a recipe."""
    names = ", ".join(pixels.bands)
    values = f"[{pixels.range[0]:g}, {pixels.range[1]:g}]" if pixels.range else "null"
    mean, std = (", ".join(f"{value:g}" for value in each) for each in (pixels.mean, pixels.std))
    return (
        "# measured over the photos to train on; range has room for twice their largest value. Name the bands as you "
        "like:\n# red, green and blue start from what RGB models have for them, others from the mean of it\n"
        f"model:\n  backbone:\n    in_channels: {len(pixels.bands)}\n"
        f"  pixels:\n    bands: [{names}]\n    values: {pixels.values}\n    range: {values}\n"
        f"    mean: [{mean}]\n    std: [{std}]\n"
        "# which varies colours of 8 bits\naugment:\n  jitter: null\n"
    )


def _photos(data: Examined) -> list[_Photo]:
    return [
        _Photo(item.pair.photo, item.pair.split, item.photo.held, item.photo.banded)
        for item in data.items
        if item.photo and not item.photo.error
    ]


def _usual(photos: Sequence[_Photo]) -> tuple[int, str] | None:
    """The kind of most photos; None where models that take RGB read all of it."""
    if not any(photo.refused for photo in photos):
        return None
    return Counter(photo.kind for photo in photos).most_common(1)[0][0]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _range(held: Sequence[Held]) -> tuple[float, float] | None:
    """From 0, or as far below, to the power of two above `_ROOM` times the largest; None where all values may be."""
    low, high = min(one.low for one in held), max(one.high for one in held)
    largest = _ROOM * max(abs(low), abs(high)) or 1.0
    bound = 2.0 ** math.ceil(math.log2(largest))
    if held[0].kind != "float32":
        bound -= 1
    if bound >= HIGHEST[held[0].kind]:
        return None
    return (-bound if low < 0 else 0.0), bound


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _files(data: Examined, photos: Sequence[_Photo]) -> list[str]:
    return [data.file(photo.path) for photo in photos]


def _line(data: Examined, photo: _Photo) -> str:
    held = photo.held
    if held is None:
        return f"{data.file(photo.path)} is 8-bit grey or RGB"
    return f"{data.file(photo.path)} holds {_count(held.bands, held.kind)}, {held.low:g} to {held.high:g}"


def _said(kind: tuple[int, str] | None) -> str:
    return "are 8-bit grey or RGB" if kind is None else f"hold {_count(*kind)}"


def _count(bands: int, kind: str) -> str:
    return f"{bands} band{'s' * (bands > 1)} of {kind}"
