"""How a photo lies as a viewer shows it, from its header alone: sizes, and the turn that its EXIF tag asks for."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from deeplab.errors import UserError

ORIENTATION = 0x0112
UPRIGHT = 1
SIDEWAYS = frozenset({5, 6, 7, 8})
"""Values of the tag that swap width and height."""

Size = tuple[int, int]


class Stored(NamedTuple):
    """(height, width) of the pixels as they are stored, and the EXIF tag, 1..8."""

    size: Size
    orientation: int

    @property
    def upright(self) -> Size:
        """(height, width) as a viewer shows the photo."""
        return self.size[::-1] if self.orientation in SIDEWAYS else self.size


def stored(photo: Path) -> Stored:
    """What a photo's header says.

    Raises:
        UserError: it cannot be read; it names the file.
    """
    try:
        with warnings.catch_warnings():
            # odd metadata warn; whoever reads the pixels says what matters
            warnings.simplefilter("ignore")
            with Image.open(photo) as image:
                orientation = image.getexif().get(ORIENTATION, UPRIGHT)
                return Stored(image.size[::-1], orientation if orientation in range(1, 9) else UPRIGHT)
    # damaged files make the decoders raise nearly anything
    except Exception as error:
        raise UserError(f"{photo}: cannot be read as a picture ({error})") from error


def upright_size(photo: Path) -> Size:
    """(height, width) as a viewer shows the photo.

    Raises:
        UserError: see `stored`.
    """
    return stored(photo).upright
