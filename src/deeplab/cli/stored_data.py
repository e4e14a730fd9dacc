"""Options that every command on a data set takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from deeplab.cli.labelling import refuse_idle

if TYPE_CHECKING:
    from deeplab.data.source import Survey
    from deeplab.data.storage import Storage
    from deeplab.imaging.bands import Bands


@Parameter(name="*")
@dataclass(frozen=True)
class StoredData:
    """How a data set is stored, as far as it is not recognised.

    Parameters
    ----------
    layout:
        How the data are stored, such as voc, cityscapes, ade20k, coco, or images (images/ and masks/, or both in one
        folder). Default: recognised by content.
    labels:
        Folder of the masks, if not found by itself.
    classes:
        Names of the masks' classes, by index, if the data do not say; or a text file with one a line.
    values:
        The value that each class has in masks, by index, such as 0 255. Default: its index.
    keep:
        Names of the classes that count, in their new order. Default: all.
    other:
        What becomes of all other classes. Default: they are ignored; where a model is measured, they are its
        background if it has one, and a warning names them.
    line_width:
        Of lines that labelme's files draw, in pixels. Default: lines are refused.
    on_bad:
        Whether annotations that paint nothing are left out with a warning, or an error.
    drawn_on:
        What labels of photos with an EXIF rotation were drawn on: the upright photo, the one as stored, or auto, as far
        as sizes tell.
    """

    layout: str = "auto"
    labels: str | None = None
    classes: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    values: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = ()
    keep: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    other: Literal["ignore", "background"] | None = None
    line_width: float | None = None
    on_bad: Literal["skip", "error"] = "skip"
    drawn_on: Literal["auto", "upright", "stored"] = "auto"

    def opened(self, root: Path, split: str) -> Survey:
        """The classes to keep of a split that is whole; see `whole`."""
        from deeplab.data.selection import selected

        rest = self.rest
        return selected(self.whole(root, split), self.keep, other=rest)

    def whole(self, root: Path, split: str, bands: Bands | None = None) -> Survey:
        """A split that is whole, with all its classes, its photos read as `bands` says; see `open_complete`."""
        from deeplab.data.opening import open_complete

        return open_complete(root, split, self.storage, bands)

    @property
    def rest(self) -> Literal["ignore", "background"]:
        """What becomes of the classes that are not kept.

        Raises:
            UserError: something is to become of them, and all are kept.
        """
        if not self.keep:
            refuse_idle(self, "other", needs="--keep")
        return self.other or "ignore"

    @property
    def storage(self) -> Storage:
        """The same for `deeplab.data.opening`."""
        from deeplab.data.storage import Storage

        return Storage(
            self.layout,
            self.labels,
            self.classes,
            self.values,
            self.line_width,
            self.on_bad,
            self.drawn_on,
        )


RECOGNISED = StoredData()
