"""The photos that a model gets most wrong, with pictures small enough to keep while the others are measured."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from deeplab.config.labels import LabelSpec
from deeplab.evaluation.photo_by_photo import Result
from deeplab.imaging.bands import viewable
from deeplab.imaging.overlay import draw_overlay

SIDE = 400


class Shown(NamedTuple):
    """One photo: its mean IoU (the reference's, 0..1), number, name, and photo, truth and prediction as one PNG."""

    mean_iou: float
    image: int
    name: str
    picture: bytes


class Worst:
    """The `keep` photos of lowest mean IoU; among equals those of lower number. Equal in any order of photos.

    Attributes:
        shown: from the worst.
    """

    def __init__(self, spec: LabelSpec, *, keep: int = 12) -> None:
        """Start empty.

        Args:
            spec: names and colours of the classes, and the ignore label.
            keep: how many photos, from 0.
        """
        self.spec = spec
        self.keep = keep
        self.shown: list[Shown] = []

    def update(self, image: int, name: str, result: Result) -> None:
        """Keep photo number `image` if it is among the worst; one without a labelled pixel is not judged."""
        score = result.confusion.mean_iou()
        full = len(self.shown) >= self.keep
        if not result.confusion.counts.any() or (
            full and (not self.shown or (score, image) > self.shown[-1][:2])
        ):
            return
        self._take([*self.shown, Shown(score, image, name, self._picture(result))])

    def __add__(self, other: Worst) -> Worst:
        """The worst of both."""
        total = Worst(self.spec, keep=self.keep)
        total._take([*self.shown, *other.shown])
        return total

    def _take(self, shown: list[Shown]) -> None:
        self.shown = sorted(shown, key=lambda one: one[:2])[: self.keep]

    def _picture(self, result: Result) -> bytes:
        """Photo, ground truth and prediction side by side, at most SIDE pixels each; void as the photo."""
        predicted = result.found.labels.numpy().astype(np.int32)
        maps = result.labels.astype(np.int32), predicted
        height, width = result.labels.shape
        scale = min(1.0, SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        photo = Image.fromarray(viewable(result.photo)).resize(size, Image.Resampling.BOX)
        tiles = [photo, *(self._overlay(photo, Image.fromarray(labels).resize(size, 0)) for labels in maps)]
        row = Image.new("RGB", (3 * size[0] + 8, size[1]), (255, 255, 255))
        for place, tile in enumerate(tiles):
            row.paste(tile, (place * (size[0] + 4), 0))
        held = io.BytesIO()
        row.save(held, format="PNG", optimize=True)
        return held.getvalue()

    def _overlay(self, photo: Image.Image, labels: Image.Image) -> Image.Image:
        return draw_overlay(
            photo,
            np.array(labels),
            class_names=self.spec.classes,
            palette=np.array(self.spec.palette, np.uint8),
            alpha=0.65,
            legend=False,
            ignore_label=self.spec.ignore_label,
        )
