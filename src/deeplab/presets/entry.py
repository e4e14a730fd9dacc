"""What is on record about a published model: its architecture, its scores, where both are stated."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from deeplab.config import DeepLabConfig

VOC_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
CITYSCAPES_SCALES = (0.75, 1.0, 1.25)
LONG_CITYSCAPES_SCALES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


class Result(NamedTuple):
    """A published score.

    Attributes:
        mean_iou: per cent.
        output_stride: it was measured at; None where the source does not say how it was measured.
        split: of the data set.
        scales, flip: of the photos whose predictions were averaged, as far as the source says.
        crf: whether a fully connected CRF came after.
    """

    mean_iou: float
    output_stride: int | None
    split: str = "val"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    crf: bool = False

    def describe(self) -> str:
        """One line: the score and how it was measured."""
        how = [self.split]
        how += [f"OS {self.output_stride}"] if self.output_stride else []
        how += ["multi-scale"] if len(self.scales) > 1 else []
        how += ["flip"] if self.flip else []
        how += ["CRF"] if self.crf else []
        return f"{self.mean_iou:.2f} ({', '.join(how)})"


class Preset(NamedTuple):
    """A named model.

    Attributes:
        build: makes the config; called only when it is asked for.
        dataset: it was trained and measured on; 'ImageNet' for a backbone alone, whose head is new.
        size: height and width in pixels at which multiply-adds are stated.
        results: published scores, none for a backbone alone.
        source: paper and table, or the reference's model zoo.
        archive: file name of the published weights in the reference's zoo.
        training: what was trained on besides the data set, where rows differ in nothing else.
    """

    build: Callable[[], DeepLabConfig]
    dataset: str
    size: tuple[int, int]
    results: tuple[Result, ...]
    source: str
    archive: str | None = None
    training: str = ""
