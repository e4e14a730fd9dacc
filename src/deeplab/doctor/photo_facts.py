"""What the doctor learns of a photo from one decode at reduced size.

A JPEG is decoded in Pillow's draft mode: the whole stream is read, so a cut-off file is noticed, but the
picture is built at an eighth of its size. The hash is a difference hash (Krawetz, "Kind of like that", 2013)
of 8x8 horizontal and 8x8 vertical brightness steps: it survives scaling and recompression. The package
`imagehash` computes the same but brings SciPy and PyWavelets for thirty lines of numpy.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from deeplab.data.upright import SIDEWAYS, stored, stored_as
from deeplab.errors import UserError
from deeplab.imaging.bands import STORED_AS, Values, has_wide_colours, read_stored, tiff_header, viewable
from deeplab.imaging.photos import hidden_bands, photo_from_bytes, read_photo
from deeplab.imaging.pictures import opened_picture

THUMB_SIDE = 16
HASH_BYTES = 16
_DRAFT_SIDE = 36
_ONE_TONE = 2.0


@dataclass(frozen=True, slots=True)
class Held:
    """What a photo holds that is not 8-bit grey or RGB, measured.

    Attributes:
        bands: how many.
        kind: uint8, uint16 or float32.
        coloured: whether the first three are red, green and blue.
        low, high: lowest and highest value.
        sums, squares: of the values and of their squares, by band.
        pixels: how many.
        refused: why a model that takes RGB refuses it; '' if it does not.
    """

    bands: int
    kind: Values
    coloured: bool
    low: float
    high: float
    sums: tuple[float, ...]
    squares: tuple[float, ...]
    pixels: int
    refused: str


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """A photo in brief.

    Attributes:
        error: why it cannot be read; None if it can. The rest is then empty.
        size: width and height as stored, before any EXIF rotation.
        orientation: EXIF orientation, 1..8; 1 is upright.
        hash: 16 bytes, 128 brightness steps.
        thumb: 16x16 grey bytes; empty if the photo is of one tone, which looks like any other such photo.
        bytes: size of the file.
        banded: whether a further band beside grey or colours is marked as transparency.
        held: of a photo that is more than 8-bit grey or RGB; None for others.
    """

    error: str | None = None
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    hash: bytes = b""
    thumb: bytes = b""
    bytes: int = 0
    banded: bool = False
    held: Held | None = None

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as a viewer shows the photo."""
        return self.size[::-1] if self.orientation in SIDEWAYS else self.size


BANDED = ("LA", "RGBA", "PA")


def photo_facts(source: Path | bytes, name: str = "") -> PhotoFacts:
    """Read a photo, a file or the bytes of one; an unreadable one gives `error` instead of an exception.

    Args:
        source: as it lies there.
        name: what messages call bytes.
    """
    try:
        with warnings.catch_warnings():
            # Odd metadata warn; the decoder's errors are what matters here.
            warnings.simplefilter("ignore")
            return _photo_facts(source, name)
    # Damaged files make the decoders raise nearly anything: OSError, SyntaxError, struct.error, zlib.error.
    except Exception as error:
        return PhotoFacts(error=why_unreadable(source, error))


def _photo_facts(source: Path | bytes, name: str) -> PhotoFacts:
    try:
        with opened_picture(source) as image:
            banded = image.mode in BANDED
            if not (
                banded or image.mode.startswith(("I", "F")) or has_wide_colours(image) or hidden_bands(image)
            ):
                return _facts(image, file_bytes=_size(source))
            refused = _refusal(source, name)
            if banded and not refused:
                return replace(_facts(image, file_bytes=_size(source)), banded=True)
    except UnidentifiedImageError:
        if tiff_header(source) is None:
            raise
        banded, refused = False, _refusal(source, name)
    return _banded_facts(source, name, banded=banded, refused=refused)


def _size(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else os.stat(source).st_size


def _refusal(source: Path | bytes, name: str) -> str:
    """Why the photo is no 8-bit RGB; '' if it can be made that."""
    try:
        if isinstance(source, bytes):
            photo_from_bytes(source, name=name)
        else:
            read_photo(source)
    except UserError as error:
        return error.what
    return ""


def _banded_facts(source: Path | bytes, name: str, *, banded: bool, refused: str) -> PhotoFacts:
    stack, lies, header = read_stored(source, name=name), stored(source, name), tiff_header(source)
    values = stack.reshape(-1, stack.shape[2]).astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError("holds NaN or infinity", fix="fill places without data with a value of its own")
    held = Held(
        bands=stack.shape[2],
        kind=STORED_AS[stack.dtype.name],
        coloured=stack.shape[2] >= 3 and (header is None or header.coloured),
        low=float(values.min()),
        high=float(values.max()),
        sums=tuple(values.sum(axis=0).tolist()),
        squares=tuple(np.square(values).sum(axis=0).tolist()),
        pixels=len(values),
        refused=refused,
    )
    seen = Image.fromarray(viewable(stack))
    hashed = _hashed(seen, PhotoFacts(size=seen.size, bytes=_size(source)))
    return replace(hashed, size=lies.size[::-1], orientation=lies.orientation, banded=banded, held=held)


def why_unreadable(source: Path | bytes, error: Exception) -> str:
    """A short reason for a file that could not be decoded."""
    try:
        if _size(source) == 0:
            return "the file is empty (0 bytes)"
    except OSError as missing:
        return f"the file cannot be opened ({missing.strerror})"
    if isinstance(error, UserError):
        return f"{error.what}; fix: {error.fix}" if error.fix else error.what
    if isinstance(source, Path) and source.suffix.lower() in (".heic", ".heif"):
        return "HEIC, which Pillow cannot read"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels to be read safely ({error})"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    return f"damaged or cut off ({error})"


def _facts(image: Image.Image, *, file_bytes: int) -> PhotoFacts:
    lies, size = stored_as(image), image.size
    image.draft("L", (_DRAFT_SIDE, _DRAFT_SIDE))
    image.load()
    # Pillow turns TIFF by itself
    size = image.size if image.format == "TIFF" else size
    hashed = _hashed(image, PhotoFacts(size=size, orientation=lies.orientation, bytes=file_bytes))
    return replace(hashed, size=lies.size[::-1])


def _hashed(image: Image.Image, facts: PhotoFacts) -> PhotoFacts:
    grey, extent = image.convert("L"), _extent(image.size, facts.size)
    thumb = np.asarray(_shrunk(grey, (THUMB_SIDE, THUMB_SIDE), extent))
    return PhotoFacts(
        size=facts.size,
        orientation=facts.orientation,
        hash=_difference_hash(_shrunk(grey, (9, 8), extent), _shrunk(grey, (8, 9), extent)),
        thumb=b"" if thumb.std() < _ONE_TONE else thumb.tobytes(),
        bytes=facts.bytes,
    )


def _extent(drafted: tuple[int, int], full: tuple[int, int]) -> tuple[float, float]:
    """Width and height in drafted pixels that the photo covers: a draft rounds its size up."""
    scale = round(full[0] / drafted[0])
    return min(drafted[0], full[0] / scale), min(drafted[1], full[1] / scale)


def _shrunk(grey: Image.Image, size: tuple[int, int], extent: tuple[float, float]) -> Image.Image:
    return grey.resize(size, Image.Resampling.BILINEAR, box=(0, 0, *extent))


def _difference_hash(wide: Image.Image, tall: Image.Image) -> bytes:
    """16 bytes: for 8x8 cells, whether the right, then the lower neighbour is brighter.

    Args:
        wide: grey, 9 cells wide and 8 high.
        tall: grey, 8 cells wide and 9 high.
    """
    across = np.diff(np.asarray(wide).astype(np.int16), axis=1) > 0
    down = np.diff(np.asarray(tall).astype(np.int16), axis=0) > 0
    return np.packbits(np.concatenate([across.ravel(), down.ravel()])).tobytes()
