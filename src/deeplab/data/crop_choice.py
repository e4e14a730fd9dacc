"""Where to cut a training crop so that rare classes are seen: two choices beside the reference's uniform one.

Crops dominated by one class teach little: mmsegmentation draws again while one class covers too much
(`cat_max_ratio`). Crops around a pixel of a rare class, as in class-uniform sampling (Zhu et al., "Improving
Semantic Segmentation via Video Propagation and Label Relaxation", arXiv 1812.01593, section 3.2), make sure
that such classes come at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeplab.data.resize import resize_label
from deeplab.errors import UserError

Array = np.ndarray
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class CropChoice:
    """How a crop's place is drawn. The defaults are the reference's: uniformly, once.

    Attributes:
        max_share: a crop in which one class has this share of the counted pixels or more, or in which there
            is only one class, is drawn again; 1 switches that off.
        tries: draws at most; the last one counts whatever it holds.
        rare_classes: class indices to centre crops on.
        rare_probability: share of crops centred on a pixel of a rare class, where the photo has any; they
            are not drawn again.

    Raises:
        UserError: a setting is out of its range.
    """

    max_share: float = 1.0
    tries: int = 10
    rare_classes: tuple[int, ...] = ()
    rare_probability: float = 0.0

    def __post_init__(self) -> None:
        _check(0 < self.max_share <= 1, "max_share", self.max_share, "more than 0, at most 1 (1 is off)")
        _check(self.tries >= 1, "tries", self.tries, "1 or more")
        share = self.rare_probability
        _check(0 <= share <= 1, "rare_probability", share, "0..1")
        fits = share == 0 or bool(self.rare_classes)
        _check(fits, "rare_classes", self.rare_classes, "at least one class, as rare_probability is above 0")

    def draw(
        self, label: Array, *, size: Size, crop: Size, ignore_label: int, rng: np.random.Generator
    ) -> Size:
        """(row, column) of a crop of `crop` in the photo as scaled to `size`.

        Args:
            label: [H, W] at its own size.
            size: (height, width) after scaling.
            crop: (height, width) of the crop.
            ignore_label: label that is no class.
            rng: of all draws.
        """
        if self.rare_probability and rng.random() < self.rare_probability:
            centred = self._around_rare_pixel(label, size=size, crop=crop, rng=rng)
            if centred is not None:
                return centred
        offset = _uniform(size, crop, rng)
        for _ in range(self.tries - 1):
            if self.max_share == 1 or self._is_mixed(label, size, crop, offset, ignore_label):
                break
            offset = _uniform(size, crop, rng)
        return offset

    def _is_mixed(self, label: Array, size: Size, crop: Size, offset: Size, ignore_label: int) -> bool:
        rows, columns = (
            np.arange(start, min(start + side, whole))
            for start, side, whole in zip(offset, crop, size, strict=True)
        )
        window = resize_label(label, size, rows=rows, columns=columns)
        counts = np.bincount(window.ravel(), minlength=ignore_label + 1)
        counts[ignore_label] = 0
        return bool(np.count_nonzero(counts) > 1 and counts.max() < self.max_share * counts.sum())

    def _around_rare_pixel(
        self, label: Array, *, size: Size, crop: Size, rng: np.random.Generator
    ) -> Size | None:
        # a class first, then its pixel: of two rare classes the larger must not win
        present = [index for index in self.rare_classes if (label == index).any()]
        if not present:
            return None
        pixels = np.flatnonzero(label == present[rng.integers(len(present))])
        place = divmod(int(pixels[rng.integers(len(pixels))]), label.shape[1])
        row, column = (
            int(np.clip((at + 0.5) * new / old - side / 2, 0, max(new - side, 0)))
            for at, old, new, side in zip(place, label.shape, size, crop, strict=True)
        )
        return row, column


def _uniform(size: Size, crop: Size, rng: np.random.Generator) -> Size:
    room = [max(whole - side, 0) for whole, side in zip(size, crop, strict=True)]
    return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))


def _check(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise UserError(f"augmentation setting {name} is {value!r}", allowed=allowed)
