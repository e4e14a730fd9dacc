"""Photos that are not 8-bit RGB: any number of bands, of 8 or 16 bits or floats, as they are stored.

TIFF is read by tifffile (extra `tiff`), everything else by Pillow as far as that keeps all bits. Nothing is dropped,
scaled or blended: a photo that has other bands, another type or other values than a model takes is refused by name.

The rules: EXIF rotation is applied. Bands of a TIFF may lie beside each other, in planes, or on pages of one size.
Signed 16 bits, half and double floats become float32. Values that are not finite are refused.
"""

from __future__ import annotations

import math
import os
import struct
from io import BytesIO
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from PIL import Image

from deeplab.errors import UserError, require
from deeplab.imaging.pictures import opened_picture
from deeplab.system.reading import plain_file

Values = Literal["uint8", "uint16", "float32"]
HIGHEST: dict[Values, float] = {"uint8": 255, "uint16": 65535, "float32": math.inf}
STORED_AS: dict[str, Values] = {
    "uint8": "uint8",
    "uint16": "uint16",
    **dict.fromkeys(("int16", "float16", "float32", "float64"), "float32"),
}
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WIDTH, LENGTH, BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, EXTRA, FORMAT = 256, 257, 258, 262, 274, 277, 338, 339
# TIFF's types of whole numbers, as struct names them
WHOLE = {1: "B", 3: "H", 4: "L", 16: "Q"}
MOST_TAGS = 4096
# what is read at once, in Pillow's MAX_IMAGE_PIXELS: pixels as Pillow has it, and values of all bands
MOST_PIXELS, MOST_VALUES = 2, 8
# samples that a TIFF's photometric interpretations say the meaning of; what is beyond them is something else
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
ALPHA = ((1,), (2,))
PILLOW_BANDS = ("L", "LA", "RGB", "RGBA", "I", "F")
SOURCE = str | os.PathLike[str] | bytes


class Bands(NamedTuple):
    """How a model takes photos: names of all their bands in order, their type, and their lowest and highest value."""

    names: tuple[str, ...]
    values: Values
    range: tuple[float, float] | None = None


class TiffHeader(NamedTuple):
    """What the first page of a TIFF says.

    Attributes:
        size: height and width as stored.
        orientation: EXIF's.
        bands: how many.
        kind: their type.
        coloured: whether the first three are red, green and blue.
    """

    size: tuple[int, int]
    orientation: int
    bands: int
    kind: str
    coloured: bool


def tiff_header(source: SOURCE) -> TiffHeader | None:
    """The header of a TIFF of any kind, also of those that Pillow cannot read; None for other files and damaged ones.

    Raises:
        OSError: the file cannot be read.
    """
    with BytesIO(source) if isinstance(source, bytes) else plain_file(source) as file:
        start = file.read(16)
        if start[:4] not in TIFF_STARTS:
            return None
        try:
            tags = _first_tags(file, start)
            size = tags[LENGTH][0], tags[WIDTH][0]
        except (struct.error, KeyError, OverflowError):
            return None
    kind = {1: "uint", 2: "int", 3: "float"}.get(tags.get(FORMAT, (1,))[0], "type of ")
    bands, orientation = tags.get(SAMPLES, (1,))[0], tags.get(ORIENTATION, (1,))[0]
    coloured = tags.get(PHOTOMETRIC) == (2,)
    return TiffHeader(size, orientation, bands, f"{kind}{max(tags.get(BITS, (1,)))}", coloured)


def _first_tags(file: BinaryIO, start: bytes) -> dict[int, tuple[int, ...]]:
    """Tags of whole numbers of a TIFF's first page."""
    order, big = "<" if start[:2] == b"II" else ">", b"+" in start[:4]
    place, number, entry = ("Q", "Q", "HHQ8s") if big else ("L", "H", "HHL4s")
    (offset,) = struct.unpack_from(order + place, start, 8 if big else 4)
    file.seek(offset)
    (count,) = struct.unpack(order + number, file.read(struct.calcsize(order + number)))
    size = struct.calcsize(order + entry)
    entries = list(struct.iter_unpack(order + entry, file.read(min(count, MOST_TAGS) * size)))
    tags = {}
    for tag, kind, length, value in entries:
        if kind not in WHOLE or not 0 < length <= MOST_TAGS:
            continue
        form = f"{order}{length}{WHOLE[kind]}"
        if struct.calcsize(form) > len(value):
            file.seek(struct.unpack(order + place, value)[0])
            value = file.read(struct.calcsize(form))
        tags[tag] = struct.unpack_from(form, value)
    return tags


def read_stored(source: SOURCE, wanted: Bands | None = None, *, name: str = "") -> np.ndarray:
    """A photo's bands as they are stored.

    Args:
        source: a file, or its bytes.
        wanted: what the photo has to be; other ones are refused before they are decoded.
        name: what messages call the photo; '' is its path.

    Returns:
        uint8, uint16 or float32 [H, W, bands], upright.

    Raises:
        UserError: the file cannot be read, is of a kind whose values would be changed, or is not `wanted`.
    """
    name = name or os.fspath(source) if not isinstance(source, bytes) else name
    try:
        if tiff_header(source) is None:
            return _by_pillow(source, wanted, name)
        return _by_tifffile(source, wanted, name)
    except UserError as error:
        raise error.within(name) from error
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror or error})", file=name) from error
    # damaged files make the decoders raise nearly anything
    except Exception as error:
        raise UserError(f"cannot be read as a picture ({error})", file=name) from error


def as_bands(stored: np.ndarray, wanted: Bands, *, name: str | None = None) -> np.ndarray:
    """What a model takes, of values as they are stored.

    Args:
        stored: [H, W, bands], or [H, W] of one band.
        wanted: the model's.
        name: what messages call the photo.

    Returns:
        [H, W, bands] of the type `wanted.values`, contiguous and writable.

    Raises:
        UserError: other bands, another type, values out of the range or not finite.
    """
    stack = stored[..., None] if stored.ndim == 2 else stored
    if stack.ndim != 3 or stack.size == 0:
        raise UserError(
            f"bands are an array [H, W, bands], found the shape {list(stored.shape)}",
            fix="array.transpose(1, 2, 0)" if stored.ndim == 3 else "",
            file=name,
        )
    _check_kind(stack.shape[2], stack.dtype, wanted, name)
    taken = _native(stack)
    low, high = float(taken.min()), float(taken.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise UserError(
            "holds NaN or infinity", fix="fill places without data with a value in the range", file=name
        )
    least, most = wanted.range or (low, high)
    if low < least or high > most:
        raise UserError(
            f"holds {low:g} to {high:g}",
            allowed=f"{least:g} to {most:g}, the range of the photos that this model is for",
            fix="scale it as those were, and fill places without data with a value in the range",
            file=name,
        )
    return np.require(taken, requirements=["C", "W"])


def viewable(photo: np.ndarray) -> np.ndarray:
    """A photo of any bands as a person can look at it, uint8 [H, W, 3].

    The first three bands are shown as red, green and blue, of fewer the first as grey; what is not of 8 bits is
    stretched, each band from its 2nd to its 98th percentile.
    """
    if photo.dtype == np.uint8 and photo.shape[2] == 3:
        return photo
    shown = photo[..., :3] if photo.shape[2] >= 3 else photo[..., :1]
    if photo.dtype != np.uint8:
        shown = np.nan_to_num(shown)
        # a hundred thousand pixels tell the percentiles
        step = max(1, math.isqrt(shown.shape[0] * shown.shape[1] // 100_000))
        low, high = np.percentile(shown[::step, ::step], (2, 98), axis=(0, 1)).astype(np.float32)
        spread = np.where(high > low, high - low, 1)
        shown = (np.clip((shown - low) / spread, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(shown if shown.shape[2] == 3 else np.repeat(shown, 3, axis=2))


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, ...] as a viewer shows it by its EXIF orientation, 1..8; a view."""
    array = array.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else array
    # after that swap, if any, the tag's values differ in which sides are mirrored
    array = array[::-1] if orientation in (3, 4, 7, 8) else array
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


def has_wide_colours(image: Image.Image) -> bool:
    """Whether Pillow gives 8 of the 16 bits of an opened picture's colours; known before it is decoded."""
    return not image.mode.startswith("I") and any(
        ";16" in str(tile[3]) for tile in getattr(image, "tile", ())
    )


def _by_tifffile(source: SOURCE, wanted: Bands | None, name: str) -> np.ndarray:
    library = require("tifffile", extra="tiff")
    with library.TiffFile(BytesIO(source) if isinstance(source, bytes) else source) as file:
        series, first = file.series[0], file.pages[0]
        other = series.axes.replace("Y", "").replace("X", "")
        if len(other) > 1 or "YX" not in series.axes:
            raise UserError(
                f"is a TIFF of the shape {series.shape} ({series.axes})",
                allowed="height, width and bands, or one band a page",
            )
        side = dict(zip(series.axes, series.shape, strict=True))
        count = side[other] if other else 1
        # a header may say anything
        pixels, most = side["Y"] * side["X"], Image.MAX_IMAGE_PIXELS or math.inf
        if pixels > MOST_PIXELS * most or pixels * count > MOST_VALUES * most:
            raise UserError(
                f"{side['X']} x {side['Y']} pixels of {count} bands are too many to be read at once",
                fix="cut it into smaller photos",
            )
        _check_kind(count, series.dtype, wanted, name)
        try:
            stack = series.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            require("imagecodecs", extra="tiff")
            raise
        orientation = first.tags[ORIENTATION].value if ORIENTATION in first.tags else 1
    stack = stack[..., None] if not other else np.moveaxis(stack, series.axes.index(other), 2)
    return turned(_native(stack), int(orientation))


def _by_pillow(source: SOURCE, wanted: Bands | None, name: str) -> np.ndarray:
    with opened_picture(source) as image:
        if image.mode not in PILLOW_BANDS and not image.mode.startswith("I;16"):
            raise UserError(f"is a picture of mode {image.mode!r}, which has no bands", fix="save it as TIFF")
        if has_wide_colours(image):
            raise UserError("has colours of 16 bits, of which Pillow gives 8", fix="save it as TIFF")
        orientation = image.getexif().get(ORIENTATION, 1)
        stack = np.asarray(image)
    if image.mode == "I" and stack.min() >= 0 and stack.max() <= HIGHEST["uint16"]:
        # what some versions of Pillow make of 16 bits
        stack = stack.astype(np.uint16)
    stack = stack[..., None] if stack.ndim == 2 else stack
    _check_kind(stack.shape[2], stack.dtype, wanted, name)
    return turned(_native(stack), orientation)


def _check_kind(count: int, dtype: np.dtype, wanted: Bands | None, name: str | None) -> None:
    values = STORED_AS.get(dtype.name)
    if values is None:
        raise UserError(
            f"holds values of {dtype.name}, which 16 bits and float32 do not hold exactly",
            allowed=", ".join(STORED_AS),
            fix="save it as one of these",
            file=name,
        )
    if wanted is not None and (count, values) != (len(wanted.names), wanted.values):
        raise UserError(
            f"has {count} band{'s' * (count > 1)} of {dtype.name}",
            allowed=f"{len(wanted.names)} of {wanted.values} ({', '.join(wanted.names)}), as this model is for",
            fix="give it photos like those that it was trained on, or take another model",
            file=name,
        )


def _native(stack: np.ndarray) -> np.ndarray:
    return stack.astype(STORED_AS[stack.dtype.name], copy=False)
