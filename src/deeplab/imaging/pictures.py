"""Pictures of somebody's: none is decoded that claims more than it can hold, and a large one is worked on in parts."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import BinaryIO

from PIL import Image

from deeplab.errors import UserError
from deeplab.system.reading import DAMAGED, LARGEST, plain_file

# the most that deflate, which packs a PNG, makes of a byte
DEFLATED = 1032
BAND_PIXELS = 1 << 22


@contextmanager
def opened_picture(
    source: str | os.PathLike[str] | bytes, *, formats: tuple[str, ...] | None = None
) -> Iterator[Image.Image]:
    """A picture whose header was read, and whose pixels were not.

    Args:
        source: a file, or the bytes of one.
        formats: Pillow's names of the formats to try; None tries all.

    Raises:
        UserError: no plain file, or a PNG too short for the pixels that it claims, which would all be allocated.
        Exception: whatever Pillow raises for what is no picture.
    """
    opened: AbstractContextManager[BinaryIO]
    opened = nullcontext(io.BytesIO(source)) if isinstance(source, bytes) else plain_file(source)
    with opened as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        with Image.open(file, formats=formats) as image:
            bits = 8 * len(image.getbands()) if image.mode in ("RGB", "RGBA", "LA") else 1
            if image.format == "PNG" and image.width * image.height * bits > 8 * DEFLATED * size:
                raise UserError(
                    f"a PNG of {size} bytes, damaged or cut short, which claims {image.width} x {image.height} pixels",
                    fix=DAMAGED,
                )
            yield image


def most_pixels() -> int:
    """Of a picture that Pillow opens."""
    return 2 * (Image.MAX_IMAGE_PIXELS or LARGEST)


def strips(width: int, height: int) -> Iterator[tuple[int, int]]:
    """First rows, and last rows plus one, of parts that arithmetic on a large picture holds one at a time."""
    rows = max(1, BAND_PIXELS // max(width, 1))
    for start in range(0, height, rows):
        yield start, min(start + rows, height)
