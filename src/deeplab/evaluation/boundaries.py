"""How good the outlines are: trimap mean IoU, Boundary IoU, boundary F-score; exact in any order of images.

- Trimap (v1 section 5.2, v3+ section 4.4): mean IoU of the pixels in a narrow band along the outlines, by the
  band's width. A pixel is in the band of width w if the square of 2w + 1 pixels around it (chessboard
  distance) holds a void pixel (edges="void", the papers' plot on VOC, whose objects have a void outline), or
  a pixel of another label, void included (edges="labels", for any data).
- Boundary IoU (Cheng et al. 2021): IoU of the parts of two masks within d pixels of their own outlines, d =
  2 % of the diagonal (as published: that many erosions by a 3 x 3 square, and the picture's rim is outline).
- Boundary F-score (Csurka et al. 2013): precision and recall of outline pixels, matched within 0.75 % of the
  diagonal (Euclidean) to an outline pixel of the same class; by image and class, averaged over the images
  where the class is labelled or predicted, then over the classes. An outline pixel has a neighbour of another
  label to a side, above or below. Void counts as another label; a predicted outline on void counts if it is
  matched and is left out if not, as nobody knows what is there. DAVIS takes 0.8 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from deeplab.errors import UserError
from deeplab.evaluation.metrics import ConfusionMatrix, mean_iou

Edges = Literal["void", "labels"]
WIDTHS = (1, 2, 3, 5, 10, 20, 40)
DEPTH_SHARE = 0.02
TOLERANCE_SHARE = 0.0075
_VOID = -1
_OUTSIDE = -2


class Boundaries:
    """All three measures, accumulated image by image.

    Attributes:
        bands: the confusion matrix of each band, by width.
        depth_counts: int64 [3, num_classes]: of the parts within d of the outlines, pixels in both, in the
            ground truth, in the prediction.
        outlines: by the image's number, int64 [4, num_classes]: predicted outline pixels matched, all of
            them, ground truth's matched, all of them.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_label: int = 255,
        widths: Sequence[int] = WIDTHS,
        edges: Edges = "labels",
        depth_share: float = DEPTH_SHARE,
        tolerance_share: float = TOLERANCE_SHARE,
    ) -> None:
        """Start at zero.

        Args:
            num_classes: number of classes.
            ignore_label: the label of void pixels.
            widths: of the trimap's bands, in pixels, each at least 1.
            edges: what the bands lie along.
            depth_share: d of Boundary IoU, as a share of the picture's diagonal.
            tolerance_share: of the boundary F-score, as a share of the diagonal.
        """
        if not widths or min(widths) < 1 or len(set(widths)) != len(widths):
            raise UserError(f"band widths {list(widths)}", allowed="different whole numbers from 1")
        if edges not in ("void", "labels"):
            raise UserError(f"edges {edges!r}", allowed="void, labels")
        if depth_share <= 0 or tolerance_share < 0:
            raise UserError(f"shares of the diagonal {depth_share}, {tolerance_share}", allowed="above 0")
        self.num_classes, self.ignore_label = num_classes, ignore_label
        self.edges: Edges = edges
        self.depth_share, self.tolerance_share = depth_share, tolerance_share
        self.bands = {w: ConfusionMatrix(num_classes, ignore_label=_VOID) for w in sorted(widths)}
        self.depth_counts = np.zeros((3, num_classes), np.int64)
        self.outlines: dict[int, np.ndarray] = {}

    def update(self, image: int, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Measure image number `image`.

        Args:
            image: its number in the data set, different for each.
            labels: integers [H, W], classes or the ignore label.
            predictions: integers [H, W], classes.

        Raises:
            UserError: not two maps of one size, a value is no class, or the image was measured before.
        """
        if image in self.outlines:
            raise UserError(f"image {image} was measured before", fix="number the images")
        truth, predicted = self._checked(labels, predictions)
        valid = truth != _VOID
        for width, confusion in self.bands.items():
            band = self.band(labels, width) & valid
            confusion.update(truth[band], predicted[band])
        # void on both sides: a perfect prediction must get 1, and void's outline is not the prediction's fault
        masked = np.where(valid, predicted, _VOID)
        depth = max(1, round(self.depth_share * float(np.hypot(*truth.shape))))
        self.depth_counts += _depth_counts(truth, masked, depth, self.num_classes)
        tolerance = self.tolerance_share * float(np.hypot(*truth.shape))
        self.outlines[image] = _outline_counts(truth, predicted, tolerance, self.num_classes)

    def band(self, labels: np.ndarray, width: int) -> np.ndarray:
        """bool [H, W]: the pixels within `width` of an edge (chessboard distance), void ones included."""
        if self.edges == "void":
            return _window_maximum((labels == self.ignore_label).astype(np.uint8), width, outside=0) > 0
        top = np.iinfo(np.int32).max
        values = labels.astype(np.int32)
        return _window_maximum(values, width, outside=-top) != -_window_maximum(-values, width, outside=-top)

    def __add__(self, other: Boundaries) -> Boundaries:
        """The measures of both sets of images.

        Raises:
            UserError: other settings, or an image in both.
        """
        if self._settings() != other._settings() or self.outlines.keys() & other.outlines.keys():
            raise UserError("cannot add boundary measures of other settings, or with an image in both")
        total = Boundaries(
            self.num_classes,
            ignore_label=self.ignore_label,
            widths=tuple(self.bands),
            edges=self.edges,
            depth_share=self.depth_share,
            tolerance_share=self.tolerance_share,
        )
        total.bands = {width: confusion + other.bands[width] for width, confusion in self.bands.items()}
        total.depth_counts = self.depth_counts + other.depth_counts
        total.outlines = self.outlines | other.outlines
        return total

    def trimap(self) -> dict[int, float]:
        """Mean IoU (the reference's) inside the band, by its width; NaN if the band is empty."""
        return {width: band.mean_iou("cityscapes") for width, band in self.bands.items()}

    def iou_per_class(self) -> np.ndarray:
        """Boundary IoU, float64 [num_classes]; NaN for classes without a labelled pixel near an outline."""
        both, truth, predicted = self.depth_counts
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(truth > 0, both / (truth + predicted - both), np.nan)

    def mean_iou(self) -> float:
        """Boundary IoU over the classes labelled or predicted near an outline; NaN if none is."""
        return mean_iou(*self.depth_counts, convention="cityscapes")

    def f_per_class(self) -> np.ndarray:
        """Boundary F-score, float64 [num_classes], mean over images; NaN for classes without an outline."""
        if not self.outlines:
            return np.full(self.num_classes, np.nan)
        rows = np.stack([self.outlines[image] for image in sorted(self.outlines)])
        found, predicted, hit, labelled = rows.transpose(1, 0, 2)
        precision, recall = found / np.maximum(predicted, 1), hit / np.maximum(labelled, 1)
        score = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
        present = (predicted + labelled) > 0
        with np.errstate(invalid="ignore"):
            return np.where(present, score, 0).sum(axis=0) / present.sum(axis=0)

    def mean_f(self) -> float:
        """Mean of `f_per_class` over the classes that have it; NaN if none has."""
        values = self.f_per_class()
        return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")

    def _settings(self) -> tuple[object, ...]:
        shares = (self.depth_share, self.tolerance_share)
        return self.num_classes, self.ignore_label, tuple(self.bands), self.edges, shares

    def _checked(self, labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if labels.ndim != 2 or labels.shape != predictions.shape:
            raise UserError(
                f"labels are {labels.shape}, predictions {predictions.shape}", allowed="one [H, W] for both"
            )
        truth, predicted = labels.astype(np.int64), predictions.astype(np.int64)
        truth[labels == self.ignore_label] = _VOID
        for what, values in (("label", truth[truth != _VOID]), ("prediction", predicted)):
            wrong = values[(values < 0) | (values >= self.num_classes)]
            if wrong.size:
                raise UserError(f"{what} {wrong[0]} is no class", allowed=f"0..{self.num_classes - 1}")
        return truth, predicted


def _window_maximum(values: np.ndarray, reach: int, *, outside: int) -> np.ndarray:
    """The maximum over the square of 2 * reach + 1 pixels around each, `outside` beyond the rim."""
    for axis in (0, 1):
        shape = list(values.shape)
        shape[axis] = reach
        rim = np.full(shape, outside, values.dtype)
        values = _running_maximum(np.concatenate([rim, values, rim], axis=axis), 2 * reach + 1, axis=axis)
    return values


def _running_maximum(values: np.ndarray, length: int, *, axis: int) -> np.ndarray:
    """Maxima of `length` neighbours along `axis`, by doubling: an effort of log2(length)."""
    values, done = np.moveaxis(values, axis, 0), 1
    while done < length:
        step = min(done, length - done)
        values = np.maximum(values[:-step], values[step:])
        done += step
    return np.moveaxis(values, 0, axis)


def _near_outline(labels: np.ndarray, depth: int) -> np.ndarray:
    """bool [H, W]: the square of 2 * depth + 1 pixels holds another label or reaches beyond the picture."""
    values = labels.astype(np.int32)
    highest = _window_maximum(values, depth, outside=np.iinfo(np.int32).max)
    lowest = -_window_maximum(-values, depth, outside=np.iinfo(np.int32).max)
    return highest != lowest


def _depth_counts(truth: np.ndarray, predicted: np.ndarray, depth: int, classes: int) -> np.ndarray:
    near_truth = _near_outline(truth, depth) & (truth != _VOID)
    near_predicted = _near_outline(predicted, depth) & (predicted != _VOID)
    both = near_truth & near_predicted & (truth == predicted)
    chosen = (truth[both], truth[near_truth], predicted[near_predicted])
    return np.stack([np.bincount(values, minlength=classes) for values in chosen])


def _outline_counts(truth: np.ndarray, predicted: np.ndarray, tolerance: float, classes: int) -> np.ndarray:
    outline_truth, outline_predicted = _outline(truth), _outline(predicted)
    found = _matched(outline_predicted, outline_truth, tolerance)
    hit = _matched(outline_truth, outline_predicted, tolerance)
    # what lies on void may be right, as outlines on VOC do, but nobody can say that it is wrong
    judged = (outline_predicted >= 0) & ((truth != _VOID) | found)
    chosen = (
        outline_predicted[found],
        outline_predicted[judged],
        outline_truth[hit],
        outline_truth[outline_truth >= 0],
    )
    return np.stack([np.bincount(values, minlength=classes) for values in chosen])


def _outline(labels: np.ndarray) -> np.ndarray:
    """The labels of outline pixels, _OUTSIDE elsewhere."""
    on = np.zeros(labels.shape, bool)
    across, along = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    on[:, 1:] |= across
    on[:, :-1] |= across
    on[1:] |= along
    on[:-1] |= along
    return np.where(on, labels, _OUTSIDE)


def _matched(outline: np.ndarray, other: np.ndarray, tolerance: float) -> np.ndarray:
    """bool [H, W]: outline pixels with one of `other` of their class within `tolerance` (Euclidean)."""
    on = outline >= 0
    rows, columns = np.nonzero(on)
    values, reach = outline[on], int(tolerance)
    padded = np.pad(other, reach, constant_values=_OUTSIDE)
    flat, width = padded.ravel(), padded.shape[1]
    start = (rows + reach) * width + columns + reach
    span = range(-reach, reach + 1)
    near = [(y * y + x * x, y * width + x) for y in span for x in span if y * y + x * x <= tolerance**2]
    alone = np.arange(len(values))
    # nearest first: good outlines are matched by the first few
    for _, step in sorted(near):
        alone = alone[flat[start[alone] + step] != values[alone]]
    matched = np.ones(len(values), bool)
    matched[alone] = False
    on[on] = matched
    return on
