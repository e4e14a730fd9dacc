"""How a data set is stored, as far as it does not say so itself: the one set of options of every reader of a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deeplab.data.upright import DrawnOn
from deeplab.errors import refuse_outside


@dataclass(frozen=True)
class Storage:
    """What somebody knows about a folder of photos and masks; the defaults know nothing.

    Attributes:
        layout: a key of `deeplab.data.layouts.LAYOUTS`; "auto" recognises it by content.
        labels: the masks' folder, for layouts that may have several.
        names: class names of the stored masks, by index, for layouts that do not say, or one text file with
            a name a line; () asks the layout.
        values: the value that each class has in masks, for layouts of index masks; () is its index.
        line_width: of drawn lines, in pixels, for layouts that have some; None refuses them.
        on_bad: whether annotations that paint nothing are left out with a warning, "skip", or are an "error".
        drawn_on: what the labels were drawn on, see `deeplab.data.upright.turned_upright`.
    """

    layout: str = "auto"
    labels: str | None = None
    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    line_width: float | None = None
    on_bad: Literal["error", "skip"] = "skip"
    drawn_on: DrawnOn = "auto"

    def __post_init__(self) -> None:
        if self.line_width is not None:
            refuse_outside(1e-3, 65_536, line_width=self.line_width)


RECOGNISED = Storage()
