"""Photos of bands that are not 8-bit RGB, and a small data set of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = ("background", "warm")
FOUR = ("red", "green", "blue", "infrared")


def write_tiff(path: Path, bands: np.ndarray, **options: Any) -> Path:
    """A TIFF of [H, W, bands], whatever their type, by tifffile; the test is skipped without it."""
    tifffile = pytest.importorskip("tifffile")
    path.parent.mkdir(parents=True, exist_ok=True)
    usual: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(path, bands[..., 0] if bands.shape[2] == 1 else bands, **usual | options)
    return path


def scene(kind: str, seed: int, *, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A photo with a rectangle that only the last band shows, and its labels.

    kind: "thermal", one band of uint16 from 7000 to 8200; "infrared", four of uint16 from 0 to 4000; "float", two.
    """
    draw = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.uint8)
    top, left = draw.integers(0, side // 2, 2)
    labels[top : top + side // 2, left : left + side // 2] = 1
    if kind == "thermal":
        stored = 7200 + 800 * labels[..., None].astype(float) + draw.normal(0, 40, (side, side, 1))
        return stored.astype(np.uint16), labels
    if kind == "float":
        bands = draw.normal(0.2, 0.05, (side, side, 2))
        bands[..., 1] += 0.5 * labels
        return bands.astype(np.float32), labels
    bands = draw.normal(1200, 200, (side, side, 4)).clip(0, 4000)
    bands[..., 3] += 2000.0 * labels
    return bands.astype(np.uint16), labels


def write_folder(root: Path, kind: str, *, photos: int = 9) -> Path:
    """images/ and masks/ of such scenes, a third for validation; thermal ones as PNG, others as TIFF."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    names = [f"p{index}" for index in range(photos)]
    for index, name in enumerate(names):
        bands, labels = scene(kind, index)
        if kind == "thermal":
            Image.fromarray(bands[..., 0]).save(root / f"images/{name}.png")
        else:
            write_tiff(root / f"images/{name}.tif", bands)
        Image.fromarray(labels).save(root / f"masks/{name}.png")
    _lines(root / "classes.txt", NAMES)
    _lines(root / "train.txt", names[: -photos // 3])
    _lines(root / "val.txt", names[-photos // 3 :])
    return root


def pixels_of(kind: str) -> dict[str, Any]:
    """`model.pixels` for these scenes."""
    if kind == "thermal":
        return {
            "bands": ["thermal"],
            "values": "uint16",
            "range": [0, 16383],
            "mean": [7400.0],
            "std": [350.0],
        }
    if kind == "float":
        return {"bands": ["vv", "vh"], "values": "float32", "mean": [0.2, 0.3], "std": [0.05, 0.2]}
    mean, std = [1200.0] * 3 + [1700.0], [200.0] * 3 + [900.0]
    return {"bands": list(FOUR), "values": "uint16", "mean": mean, "std": std}


def _lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n")
