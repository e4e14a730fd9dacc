"""Photos and masks that are not files of their own but bytes within a shard."""

from __future__ import annotations

import io
from contextlib import suppress

import numpy as np
from PIL import Image, UnidentifiedImageError

from deeplab.errors import UserError
from deeplab.imaging.bands import Bands, as_bands, read_stored
from deeplab.imaging.photos import photo_from_bytes
from deeplab.imaging.pictures import opened_picture

INDEX_MODES = ("L", "P", "1")
AS_STORED = {"JPEG": frozenset({"RGB", "L"}), "PNG": frozenset({"RGB"})}
"""Photo files whose bytes go into a shard unchanged: format and modes."""
EXIF_ORIENTATION = 0x0112


def open_picture(data: bytes, name: str) -> Image.Image:
    """A decoded picture.

    Raises:
        UserError: `data` are no picture, or a broken one; it calls them `name`.
    """
    try:
        with opened_picture(data) as picture:
            picture.load()
            # while its file is open: what it says of turning is asked for later
            with suppress(Exception):
                picture.getexif()
            return picture
    except UserError as error:
        raise error.within(name) from error.__cause__
    except UnidentifiedImageError as error:
        # which says where the bytes lie in memory
        raise UserError("is no picture", fix="write the shard again", file=name) from error
    # Damaged files make the decoders raise nearly anything: OSError, SyntaxError, struct.error, zlib.error.
    except Exception as error:
        raise UserError(
            f"cannot be read as a picture ({error})", fix="write the shard again", file=name
        ) from error


def read_embedded_photo(data: bytes, name: str, bands: Bands | None = None) -> np.ndarray:
    """A photo as `deeplab.imaging.photos.read_photo` gives it, of a file's bytes that messages call `name`.

    Raises:
        UserError: `data` are no photo, a broken one, or one of other bands.
    """
    if bands is not None:
        return as_bands(read_stored(data, bands, name=name), bands, name=name)
    return photo_from_bytes(data, name=name)


def read_embedded_mask(data: bytes, name: str) -> np.ndarray:
    """Class indices, uint8 [H, W].

    Raises:
        UserError: `data` are no picture of indices; it calls them `name`.
    """
    picture = open_picture(data, name)
    if picture.mode not in INDEX_MODES:
        raise UserError(
            f"the mask's mode is {picture.mode}",
            allowed="class indices, 8 bits",
            fix="write the shard again from index masks",
            file=name,
        )
    return np.array(picture).astype(np.uint8, copy=False)


def bytes_as_stored(path: str) -> bytes | None:
    """The photo file's bytes if any reader would see the same photo in them: upright, 8-bit, JPEG or PNG."""
    try:
        with opened_picture(path) as image:
            plain = image.mode in AS_STORED.get(image.format or "", ()) and not image.has_transparency_data
            upright = image.getexif().get(EXIF_ORIENTATION, 1) == 1
        with open(path, "rb") as file:
            return file.read() if plain and upright else None
    except (OSError, UserError):
        return None


def png_bytes(values: np.ndarray) -> bytes:
    """A PNG file of uint8 [H, W] or [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return buffer.getvalue()
