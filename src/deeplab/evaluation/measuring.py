"""A model measured on a data set by one process or several, with the same result to the last bit.

Everything counted is whole numbers, or by photo and put in the photos' order, so neither the number of processes
nor the order matters. Photos are labelled one at a time, so only equal arithmetic is left to the machine: on a
CPU, processes must use as many threads as the one that they are compared with.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

from deeplab.data.dataset import SegmentationDataset
from deeplab.evaluation.photo_by_photo import Result, evaluate
from deeplab.evaluation.report.scores import Scores
from deeplab.prediction.predictor import Predictor
from deeplab.system.processes import ALONE, World, gather


def measure(
    predictor: Predictor,
    dataset: SegmentationDataset,
    scores: Scores,
    *,
    world: World = ALONE,
    on_photo: Callable[[], None] = lambda: None,
) -> Scores:
    """All measures over the whole data set, the same in all processes.

    Args:
        predictor: with the same weights in every process.
        dataset: without a transform.
        scores: at zero, with the measures that are wanted; each process fills its own.
        on_photo: see `deeplab.evaluation.photo_by_photo.evaluate`.
        world: this process among all; it takes every `world.size`th photo.
    """
    own = range(world.rank, len(dataset), world.size)
    scores = measured(predictor, dataset, scores, own, on_photo=on_photo)
    return functools.reduce(operator.add, gather(scores, world))


def measured(
    predictor: Predictor,
    dataset: SegmentationDataset,
    scores: Scores,
    own: Sequence[int],
    *,
    on_photo: Callable[[], None] = lambda: None,
) -> Scores:
    """`scores`, filled by the photos of the numbers `own`; see `measure`."""
    numbers = iter(own)

    def on_result(result: Result) -> None:
        image = next(numbers)
        scores.update(image, dataset.source.name(image), result, mask=dataset.source.files(image)[1])

    samples = (dataset.load(index) for index in own)
    evaluate(
        predictor,
        samples,
        confidence=scores.calibration is not None,
        on_result=on_result,
        on_photo=on_photo,
    )
    return scores
