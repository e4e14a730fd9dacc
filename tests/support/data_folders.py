"""Writes tiny photos and masks for the tests of data layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def photo(path: Path, size=(4, 6), *, seed: int = 0) -> np.ndarray:
    """A PNG or JPEG of noise, (height, width); its decoded pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    with Image.open(path) as image:
        return np.array(image)


def grey(path: Path, values) -> np.ndarray:
    """An 8-bit grey PNG of these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(values, dtype=np.uint8)
    Image.fromarray(array).save(path)
    return array


def colours(path: Path, values) -> None:
    """An RGB PNG of these colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def text(path: Path, content: str) -> None:
    """A text file, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
