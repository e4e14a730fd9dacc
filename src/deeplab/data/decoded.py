"""Photos and masks kept decoded on disk: later epochs map them into memory, and a crop touches its own rows only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeplab.errors import UserError
from deeplab.system.cache import ANOTHER_CACHE
from deeplab.system.writing import whole_file

SIZE = "decoded photos take 4 bytes a pixel"
Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class DecodedFiles:
    """A folder of such pairs, 4 bytes a pixel; it may be deleted at any time.

    Attributes:
        folder: made if missing.
        about: what the decoded pairs depend on beside their files.
    """

    folder: Path
    about: str = ""

    def fetch(self, files: tuple[str, str], decode: Callable[[], Pair]) -> Pair:
        """The pair as it was kept, or from `decode` and kept from now on.

        Args:
            files: photo and mask on disk; a file that changes is decoded again.
            decode: gives (image uint8 [H, W, 3], label uint8 [H, W]).

        Returns:
            what `decode` gives; kept arrays are mapped files and not writable.

        Raises:
            UserError: the samples are no files of their own, or there is no room for them.
        """
        key = self._key(files)
        paths = [self.folder / f"{key}.{part}.npy" for part in ("photo", "mask")]
        kept = _kept(*paths)
        if kept is None:
            kept = decode()
            for path, array in zip(paths, kept, strict=True):
                _save(path, array)
        return kept

    def _key(self, files: tuple[str, str]) -> str:
        about = [self.about]
        for name in files:
            try:
                state = os.stat(name)
            except FileNotFoundError:
                raise UserError(
                    f"data.keep_decoded: {name} is no file of its own, as samples in shards and records are",
                    fix="data.keep_decoded=false",
                ) from None
            about += [os.path.abspath(name), str(state.st_size), str(state.st_mtime_ns)]
        return hashlib.blake2b("\0".join(about).encode(), digest_size=16).hexdigest()


def _kept(photo: Path, mask: Path) -> Pair | None:
    """The mapped pair; None where it is not there, or was damaged since."""
    try:
        if not photo.is_file() or not mask.is_file():
            return None
        image, label = (np.lib.format.open_memmap(path, mode="r") for path in (photo, mask))
    # whatever a damaged header makes of it
    except Exception:
        return None
    whole = image.ndim == 3 and image.shape[2] == 3 and image.dtype == label.dtype == np.uint8
    return (image, label) if whole and label.shape == image.shape[:2] else None


def _save(path: Path, array: np.ndarray) -> None:
    with whole_file(path, otherwise=f"{ANOTHER_CACHE}, or data.keep_decoded=false ({SIZE})") as file:
        # not np.save, whose error does not say that the disk is full
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).data)
