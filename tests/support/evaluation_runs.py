"""What the processes of `test_eval_report` do; apart, so that a fork imports no tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deeplab.data.dataset import SegmentationDataset
from deeplab.data.opening import open_source
from deeplab.data.storage import Storage
from deeplab.evaluation.boundaries import Boundaries
from deeplab.evaluation.calibration import Calibration
from deeplab.evaluation.measuring import measure
from deeplab.evaluation.report.scores import Scores
from deeplab.evaluation.report.summary import summarise
from deeplab.evaluation.report.worst import Worst
from deeplab.model.checkpoint import load
from deeplab.prediction.predictor import Predictor
from deeplab.system.processes import join_processes

CLASSES = ("background", "red", "blue")


def everything(model: Path, data: Path) -> tuple[dict[str, Any], list[bytes]]:
    """The summary of all measures, and the pictures of the two worst photos."""
    network = load(model)
    dataset = SegmentationDataset(open_source(data, "train", Storage(names=CLASSES)))
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
