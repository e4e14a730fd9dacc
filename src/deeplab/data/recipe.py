"""The part of a training recipe that says where photos and masks are, and which classes count."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import PositiveFloat, model_validator

from deeplab.config import Strict
from deeplab.data.storage import Storage
from deeplab.data.upright import DrawnOn


class DataRecipe(Strict):
    """Photos and masks in any layout of `deeplab.data.layouts`; root may be the address of shards in a store.

    layout: how the data are stored; "auto" recognises it by content.
    train, val: names of the splits.
    labels: folder of the masks, where a layout may have several.
    names: class names of the masks on disk, by index, or one text file with a name a line; empty: what the data say.
    values: the value that each class has in the masks, by index, such as [0, 255] for masks of black and white; empty:
        its index.
    classes: names to train, in this order; others become `other`. Empty: all of them.
    line_width: of lines that labelme's files draw, in pixels; None refuses them.
    on_bad: whether annotations that paint nothing (no outline, no label, fewer than three points) are left out with a
        warning, "skip", or are an "error".
    drawn_on: what labels of photos with an EXIF rotation were drawn on: the "upright" photo, the one as "stored", or
        "auto": the stored one where the size says so, else the upright one.
    keep_decoded: keep the training photos and masks decoded in the cache folder, 4 bytes a pixel, so that later
        epochs and runs need not decode them.
    """

    root: Path
    layout: str = "auto"
    train: str = "train"
    val: str = "val"
    labels: str | None = None
    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    other: Literal["ignore", "background"] = "ignore"
    line_width: PositiveFloat | None = None
    on_bad: Literal["error", "skip"] = "skip"
    drawn_on: DrawnOn = "auto"
    keep_decoded: bool = False

    @property
    def storage(self) -> Storage:
        """The part of it that says how the files are read."""
        return Storage(
            self.layout, self.labels, self.names, self.values, self.line_width, self.on_bad, self.drawn_on
        )

    @model_validator(mode="after")
    def _several_classes(self) -> Self:
        if len(self.classes) == 1:
            raise ValueError(f"classes needs at least two names; found {self.classes}; add 'background'")
        return self
