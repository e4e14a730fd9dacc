"""All scores of an evaluation as plain values for JSON: shares of 1, full precision, None where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deeplab.evaluation.bootstrap import Interval
from deeplab.evaluation.boundaries import Boundaries
from deeplab.evaluation.calibration import Calibration
from deeplab.evaluation.metrics import CONVENTIONS
from deeplab.evaluation.report.scores import Scores


def summarise(
    scores: Scores,
    classes: Sequence[str],
    *,
    settings: dict[str, Any],
    interval: Interval | None = None,
    difference: Interval | None = None,
) -> dict[str, Any]:
    """What results.json holds.

    Args:
        scores: of the whole data set.
        classes: names, by index.
        settings: how the evaluation was made, put first as it is.
        interval: of the mean IoU.
        difference: of the mean IoU to another evaluation.
    """
    confusion = scores.confusion
    report = {
        **settings,
        "photos": len(scores.names),
        "mean IoU": confusion.mean_iou(),
        "mean IoU by convention": {name: confusion.mean_iou(name) for name in CONVENTIONS},
        "pixel accuracy": confusion.pixel_accuracy(),
        "mean accuracy": confusion.mean_accuracy(),
        "frequency-weighted IoU": confusion.frequency_weighted_iou(),
        "IoU": by_class(classes, confusion.iou_per_class()),
        "accuracy": by_class(classes, confusion.accuracy_per_class()),
        "labelled pixels": by_class(classes, confusion.counts.sum(axis=1)),
        "confusion": confusion.counts.tolist(),
    }
    if interval is not None:
        report["bootstrap"] = interval._asdict()
    if difference is not None:
        report["difference"] = difference._asdict()
    if scores.boundaries is not None:
        report["boundaries"] = boundary_summary(scores.boundaries, classes)
    if scores.calibration is not None:
        report["calibration"] = calibration_summary(scores.calibration)
    if scores.instances is not None:
        report["instance-weighted IoU"] = {
            "mean": scores.instances.mean(confusion),
            "by class": scores.instances.by_class(confusion),
            "by category": scores.instances.by_category(confusion),
        }
    if scores.worst is not None:
        report["worst photos"] = [{"name": one.name, "mean IoU": one.mean_iou} for one in scores.worst.shown]
    return _without_nan(report)


def boundary_summary(boundaries: Boundaries, classes: Sequence[str]) -> dict[str, Any]:
    """Trimap mean IoU by width, Boundary IoU and boundary F-score with their settings."""
    return {
        "trimap edges": boundaries.edges,
        "trimap mean IoU": {str(width): value for width, value in boundaries.trimap().items()},
        "boundary IoU": boundaries.mean_iou(),
        "boundary IoU by class": by_class(classes, boundaries.iou_per_class()),
        "boundary IoU depth, share of diagonal": boundaries.depth_share,
        "boundary F": boundaries.mean_f(),
        "boundary F by class": by_class(classes, boundaries.f_per_class()),
        "boundary F tolerance, share of diagonal": boundaries.tolerance_share,
    }


def calibration_summary(calibration: Calibration) -> dict[str, Any]:
    """Expected and maximum calibration error and the reliability diagram's bins."""
    return {
        "expected calibration error": calibration.expected_error(),
        "maximum calibration error": calibration.maximum_error(),
        "bins": [one._asdict() for one in calibration.reliability()],
    }


def by_class(classes: Sequence[str], values: np.ndarray) -> dict[str, float | int]:
    """Values by class name."""
    return dict(zip(classes, values.tolist(), strict=True))


def _without_nan(value: Any) -> Any:
    """None in place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(held) for held in value]
    return None if isinstance(value, float) and math.isnan(value) else value
