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

from deeplab.data.upright import SIDEWAYS, stored_as
from deeplab.errors import UserError
from deeplab.imaging.pictures import opened_picture

THUMB_SIDE = 16
HASH_BYTES = 16
_DRAFT_SIDE = 36
_ONE_TONE = 2.0


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
        banded: whether a further band beside grey or colours is read as transparency.
        values: lowest and highest stored value of a photo of more than 8 bits; None for others.
    """

    error: str | None = None
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    hash: bytes = b""
    thumb: bytes = b""
    bytes: int = 0
    banded: bool = False
    values: tuple[float, float] | None = None

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as a viewer shows the photo."""
        return self.size[::-1] if self.orientation in SIDEWAYS else self.size


BANDED = ("LA", "RGBA", "PA")


def photo_facts(path: Path) -> PhotoFacts:
    """Read a photo; an unreadable one gives `error` instead of an exception."""
    try:
        with warnings.catch_warnings():
            # Odd metadata warn; the decoder's errors are what matters here.
            warnings.simplefilter("ignore")
            with opened_picture(path) as image:
                return _facts(image, file_bytes=os.stat(path).st_size)
    # Damaged files make the decoders raise nearly anything: OSError, SyntaxError, struct.error, zlib.error.
    except Exception as error:
        return PhotoFacts(error=why_unreadable(path, error))


def why_unreadable(path: Path, error: Exception) -> str:
    """A short reason for a file that could not be decoded."""
    try:
        if os.stat(path).st_size == 0:
            return "the file is empty (0 bytes)"
    except OSError as missing:
        return f"the file cannot be opened ({missing.strerror})"
    if path.suffix.lower() in (".heic", ".heif"):
        return "HEIC, which Pillow cannot read"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels to be read safely ({error})"
    if isinstance(error, UserError):
        return error.what
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    return f"damaged or cut off ({error})"


def array_facts(pixels: np.ndarray) -> PhotoFacts:
    """Facts of a photo that is already decoded, uint8 [H, W, 3]."""
    image = Image.fromarray(pixels)
    return _hashed(image, PhotoFacts(size=image.size, bytes=pixels.nbytes))


def _facts(image: Image.Image, *, file_bytes: int) -> PhotoFacts:
    lies, size = stored_as(image), image.size
    image.draft("L", (_DRAFT_SIDE, _DRAFT_SIDE))
    image.load()
    # Pillow turns TIFF by itself
    size = image.size if image.format == "TIFF" else size
    hashed = _hashed(image, PhotoFacts(size=size, orientation=lies.orientation, bytes=file_bytes))
    values = None
    if image.mode.startswith(("I", "F")):
        stored = np.asarray(image)
        values = float(stored.min()), float(stored.max())
    return replace(hashed, size=lies.size[::-1], banded=image.mode in BANDED, values=values)


def _hashed(image: Image.Image, facts: PhotoFacts) -> PhotoFacts:
    grey, extent = _grey(image), _extent(image.size, facts.size)
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


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float32)
        low, high = float(values.min()), float(values.max())
        return Image.fromarray(((values - low) * (255 / max(high - low, 1e-6))).astype(np.uint8))
    return image.convert("L")


def _difference_hash(wide: Image.Image, tall: Image.Image) -> bytes:
    """16 bytes: for 8x8 cells, whether the right, then the lower neighbour is brighter.

    Args:
        wide: grey, 9 cells wide and 8 high.
        tall: grey, 8 cells wide and 9 high.
    """
    across = np.diff(np.asarray(wide).astype(np.int16), axis=1) > 0
    down = np.diff(np.asarray(tall).astype(np.int16), axis=0) > 0
    return np.packbits(np.concatenate([across.ravel(), down.ravel()])).tobytes()
