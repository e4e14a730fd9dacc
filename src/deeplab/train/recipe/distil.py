"""The part of a training recipe that says who teaches the student."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from deeplab.config import Fraction, NonNegative, Strict


class DistilRecipe(Strict):
    """Distillation (arXiv 1503.02531): the loss of `deeplab.train.losses.distillation` beside that of the masks.

    teacher: a model as --model takes it, or a folder of stored maps (`deeplab.data.teacher_maps`); or a list of such,
        of which the mean teaches. A model labels each training photo once, and its maps are kept in the cache folder.
    weight: of the loss.
    temperature: softens teacher and student; above 1, small shares count for more.
    scales, flip, output_stride: how a model labels, as in deeplab predict.
    """

    teacher: Annotated[tuple[str, ...], Field(min_length=1)]
    weight: NonNegative = 1.0
    temperature: Fraction = 1.0
    scales: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (1.0,)
    flip: bool = False
    output_stride: int | None = None

    @field_validator("teacher", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value
