"""What the numbers in a label map mean: class names, colours, and the value that is ignored."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from deeplab.config import Strict
from deeplab.imaging import palettes
from deeplab.imaging.ade20k_classes import ADE20K_CLASSES

Byte = Annotated[int, Field(ge=0, le=255)]


class LabelSpec(Strict):
    """Names and colours of the classes, in the order of the model's channels.

    The ignore label is a value that masks may hold, not a class: it has no channel and is not counted.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[Byte, Byte, Byte], ...]
    ignore_label: int = 255

    @model_validator(mode="after")
    def _one_colour_each(self) -> Self:
        if len(self.palette) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes need as many colours; found {len(self.palette)}")
        return self

    @classmethod
    def named(cls, classes: list[str] | tuple[str, ...], *, ignore_label: int = 255) -> LabelSpec:
        """These names with their data set's colours (VOC, Cityscapes, ADE20K), else clearly distinct ones.

        Black is for a class called background alone.
        """
        names = tuple(classes)
        if names == palettes.VOC_CLASSES:
            colours = palettes.pascal(len(names))
        elif names == palettes.CITYSCAPES_CLASSES:
            colours = palettes.CITYSCAPES[: len(names)]
        elif names == ADE20K_CLASSES:
            colours = palettes.ADE20K
        else:
            first = 0 if names[0] == "background" else 1
            colours = palettes.distinct(len(names) + first)[first:]
        return cls(classes=names, palette=tuple(map(tuple, colours.tolist())), ignore_label=ignore_label)

    @classmethod
    def numbered(cls, count: int) -> LabelSpec:
        """Names class_0, class_1, ... for weights that came without any."""
        return cls.named([f"class_{index}" for index in range(count)])
