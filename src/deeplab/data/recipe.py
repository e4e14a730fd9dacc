"""The part of a training recipe that says where photos and masks are, and which classes count."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from deeplab.config import Strict
from deeplab.palettes import VOC_CLASSES


class DataRecipe(Strict):
    """Photos and masks in the VOC layout.

    classes: names to train, in this order; others become `other`.
    names: class names of the masks on disk, by index.
    """

    root: Path
    train: str = "train"
    val: str = "val"
    labels: str | None = None
    names: tuple[str, ...] = VOC_CLASSES
    classes: tuple[str, ...] = VOC_CLASSES
    other: Literal["ignore", "background"] = "ignore"
