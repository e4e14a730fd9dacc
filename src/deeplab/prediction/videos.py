"""Pictures of a clip labelled one after another, smoothed over time if asked for, and how much the labels flicker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from deeplab.errors import UserError
from deeplab.native.upsample_argmax import upsample_argmax
from deeplab.prediction.predictor import Predictor

# a pixel whose colours differ by no more between two pictures shows the same thing
STILL = 8
# another scene begins where pictures differ by more on average
CUT = 40


@dataclass
class Flicker:
    """Pixels that show the same in two pictures that follow one another, and how many of them change their label."""

    still: int = 0
    changed: int = 0

    @property
    def share(self) -> float:
        """Of the still pixels, those whose label changed; 0 where none is still."""
        return self.changed / max(1, self.still)


class PictureLabeller:
    """Labels the pictures of one clip, in order.

    Args:
        predictor: the model.
        smooth: share of the logits so far in those of each picture, 0 to below 1; 0 labels each for itself. What they
            were is forgotten where another scene begins.

    Attributes:
        flicker: of the labels so far.

    Raises:
        UserError: a model of bands, such a share cannot be, or several passes, windows or a CRF are to be smoothed.
    """

    def __init__(self, predictor: Predictor, *, smooth: float = 0.0) -> None:
        how, bands = predictor.how, predictor.network.config.pixels.bands
        if bands:
            raise UserError(
                f"pictures of clips and cameras are 8-bit RGB, and this model reads the bands {', '.join(bands)}",
                fix="label such photos one by one",
            )
        if not 0 <= smooth < 1:
            raise UserError(f"--smooth {smooth}", allowed="0 to below 1", fix="try 0.6")
        if smooth and not (how.one_pass and how.window is None and how.crf is None):
            raise UserError(
                "what is smoothed over time are the logits of one pass over the whole picture",
                fix="leave out --smooth, or scales, flip, window and CRF",
            )
        self._predictor, self._smooth = predictor, smooth
        self._logits: torch.Tensor | None = None
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self.flicker = Flicker()

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W], uint16 above 256 classes, of the next picture, uint8 [H, W, 3]."""
        apart = self._apart(pixels)
        labels = self._labels(pixels, begins=apart is None or apart.mean() > CUT)
        if apart is not None and self._last is not None:
            still = apart <= STILL
            self.flicker.still += int(still.sum())
            self.flicker.changed += int((still & (labels != self._last[1])).sum())
        self._last = pixels, labels
        return labels

    def _apart(self, pixels: np.ndarray) -> np.ndarray | None:
        """By how much each pixel's colours differ from the picture before, uint8 [H, W]; None where there is none."""
        if self._last is None or self._last[0].shape != pixels.shape:
            return None
        before = self._last[0]
        return (np.maximum(pixels, before) - np.minimum(pixels, before)).max(axis=2)

    def _labels(self, pixels: np.ndarray, *, begins: bool) -> np.ndarray:
        photo = self._predictor.photo(pixels)
        if not self._smooth:
            return self._predictor.labels_of(photo).numpy()
        logits = self._predictor.logits_of(photo)
        if begins or self._logits is None:
            self._logits = logits
        else:
            self._logits = torch.lerp(logits, self._logits, self._smooth)
        size = (photo.shape[0], photo.shape[1])
        return upsample_argmax(self._logits[None], size, self._predictor.network.config.resize)[0].numpy()
