"""What the processes of `test_eval_report` do; apart, so that a fork imports no tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deeplab.boundaries import Boundaries
from deeplab.calibration import Calibration
from deeplab.checkpoint import load
from deeplab.data.dataset import SegmentationDataset
from deeplab.data.opening import open_source
from deeplab.prediction.predictor import Predictor
from deeplab.report.measure import measure
from deeplab.report.scores import Scores
from deeplab.report.summary import summarise
from deeplab.report.worst import Worst
from deeplab.train.distributed import join_processes

CLASSES = ("background", "red", "blue")


def everything(model: Path, data: Path) -> tuple[dict[str, Any], list[bytes]]:
    """The summary of all measures, and the pictures of the two worst photos."""
    network = load(model)
    dataset = SegmentationDataset(open_source(data, "train", names=CLASSES))
    scores = Scores(
        3,
        boundaries=Boundaries(3, widths=(1, 4)),
        calibration=Calibration(),
        worst=Worst(network.labels, keep=2),
    )
    with join_processes("cpu") as world:
        scores = measure(Predictor.as_it_is(network), dataset, scores, world=world)
    assert scores.worst is not None
    return summarise(scores, CLASSES, settings={}), [one.picture for one in scores.worst.shown]
