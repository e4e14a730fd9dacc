"""How a photo lies, from its header alone, and labels that were drawn on it as it is stored.

A photo's EXIF tag may ask viewers to turn it. Photos are read upright, as a viewer shows them; tools draw on the
upright photo or on the stored one, which their sizes tell apart where the two have width and height swapped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from deeplab.errors import UserError
from deeplab.imaging.bands import tiff_header, turned
from deeplab.imaging.pictures import opened_picture

ORIENTATION, IMAGE_WIDTH, IMAGE_LENGTH = 0x0112, 0x0100, 0x0101
UPRIGHT = 1
SIDEWAYS = frozenset({5, 6, 7, 8})
"""Values of the tag that swap width and height."""

Size = tuple[int, int]
DrawnOn = Literal["auto", "upright", "stored"]


class Stored(NamedTuple):
    """(height, width) of a photo's pixels as they are stored, and its EXIF tag, 1..8."""

    size: Size
    orientation: int

    @property
    def upright(self) -> Size:
        """(height, width) as a viewer shows the photo."""
        return self.size[::-1] if self.orientation in SIDEWAYS else self.size


def stored_as(image: Image.Image) -> Stored:
    """How an opened photo lies, which is not yet decoded."""
    size, orientation = image.size[::-1], UPRIGHT
    # Pillow would decode the whole PNG to look for a tag behind the pixels
    if image.format != "PNG" or "exif" in image.info:
        orientation = image.getexif().get(ORIENTATION, UPRIGHT)
    if image.format == "TIFF":
        # whose size Pillow gives upright, or not, by its version
        tags = cast(TiffImageFile, image).tag_v2
        size = tags[IMAGE_LENGTH], tags[IMAGE_WIDTH]
    return Stored(size, orientation if orientation in range(1, 9) else UPRIGHT)


def stored(photo: Path | bytes, name: str = "") -> Stored:
    """What the header of a photo, a file or its bytes, says.

    Raises:
        UserError: it cannot be read; it names the file, or calls the bytes `name`.
    """
    try:
        # what Pillow says of odd metadata is not silenced: `catch_warnings` in threads silences all the others for good
        with opened_picture(photo) as image:
            return stored_as(image)
    except UnidentifiedImageError:
        return _by_header(photo, name)
    # damaged files make the decoders raise nearly anything
    except Exception as error:
        raise UserError(
            error.what if isinstance(error, UserError) else f"cannot be read as a picture ({error})",
            file=name if isinstance(photo, bytes) else photo,
        ) from error


def _by_header(photo: Path | bytes, name: str) -> Stored:
    """Of a TIFF whose bands Pillow cannot read."""
    header = tiff_header(photo)
    if header is None:
        raise UserError("not a picture", file=name if isinstance(photo, bytes) else photo)
    return Stored(header.size, header.orientation if header.orientation in range(1, 9) else UPRIGHT)


def turned_upright(
    labels: np.ndarray, photo: Callable[[], Stored | None], *, drawn_on: DrawnOn = "auto"
) -> np.ndarray:
    """Labels as they lie on the upright photo.

    Args:
        labels: [H, W], as they were drawn.
        photo: how it lies, asked only if that matters; None for a photo that nothing turns.
        drawn_on: "auto" turns labels that have the size of the stored photo and not of the upright one, "stored" all
            that are of a photo with a tag, "upright" none.

    Returns:
        [H, W] or [W, H]; `labels` itself where nothing is turned.

    Raises:
        UserError: what `photo` raises.
    """
    if drawn_on == "upright" or (drawn_on == "auto" and labels.shape[0] == labels.shape[1]):
        return labels
    lies = photo()
    if lies is None or labels.shape != lies.size or (drawn_on == "auto" and lies.upright == lies.size):
        return labels
    return np.ascontiguousarray(turned(labels, lies.orientation))
