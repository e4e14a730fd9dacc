"""NumPy's .npz files of somebody's: arrays by name, within limits, and never objects."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from deeplab.errors import UserError
from deeplab.system.reading import zip_archive

# that one array may unpack to: most of a map of probabilities is zeros, so that it packs well
LARGEST_ARRAY = 1 << 30


def read_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """The arrays of these names.

    Raises:
        UserError: the file is no plain one, or an array unpacks to more than it may.
        Exception: whatever `zipfile` and NumPy raise for damaged files.
    """
    found = []
    with zip_archive(path) as archive:
        for name in names:
            with archive.open(f"{name}.npy") as member:
                data = member.read(LARGEST_ARRAY + 1)
            if len(data) > LARGEST_ARRAY:
                raise UserError(f"its {name} unpacks to more than {LARGEST_ARRAY} bytes")
            found.append(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))
    return found
