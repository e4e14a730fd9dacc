"""Options that every command on a data set takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class StoredData:
    """How a data set is stored, as far as it is not recognised.

    Parameters
    ----------
    layout:
        How the data are stored, such as voc, cityscapes, ade20k, coco. Default: recognised by content.
    labels:
        Folder of the masks, if not found by itself.
    classes:
        Names of the masks' classes, by index, if the data do not say.
    """

    layout: str = "auto"
    labels: str | None = None
    classes: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()


RECOGNISED = StoredData()
