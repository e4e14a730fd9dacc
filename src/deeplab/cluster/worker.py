"""What one process of many does: it opens the model once, and works through part after part on one thread."""

from __future__ import annotations

import copy
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from deeplab.cluster.inputs import Part
from deeplab.cluster.shards import Done, Job
from deeplab.data.dataset import SegmentationDataset
from deeplab.data.layouts.embedded import read_embedded_photo
from deeplab.errors import UserError
from deeplab.evaluation.measuring import measured
from deeplab.evaluation.report.scores import Scores
from deeplab.imaging.label_maps import label_map_picture
from deeplab.imaging.scenes import is_scene
from deeplab.imaging.videos import VIDEO_SUFFIXES
from deeplab.prediction.artefacts import open_predictor
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.system.memory import keep_freed_memory, ran_out_of_memory


class ToLabel(NamedTuple):
    """What all parts of a job have in common; the model by name or path, as each machine sees it."""

    job: Job
    model: str
    how: Labelling


class ToMeasure(NamedTuple):
    """What all parts of an evaluation have in common; `scores` are at zero."""

    dataset: SegmentationDataset
    scores: Scores
    model: str
    how: Labelling


def label_part(work: ToLabel, number: int, part: Part) -> Done:
    """Label a part of a job. Engines call this in processes of theirs, again where one died."""
    predictor = _opened(work.model, work.how)
    palette = np.array(predictor.labels.palette, np.uint8)
    bands = predictor.network.config.pixels.read_as()

    def label(name: str, content: Path | bytes) -> bytes:
        if is_scene(content) if isinstance(content, Path) else is_scene(Path(name), content):
            raise UserError(
                "is a scene, whose place and pixels without data a label map of a photo does not keep",
                fix="label it without --cluster",
                file=name,
            )
        if Path(name).suffix.lower() in VIDEO_SUFFIXES:
            raise UserError("is a clip", allowed="photos", fix="label it without --cluster", file=name)
        try:
            photo = (
                predictor.photo(content)
                if isinstance(content, Path)
                else read_embedded_photo(content, name, bands)
            )
            png = BytesIO()
            label_map_picture(predictor.labels_of(photo).numpy(), palette=palette).save(png, "PNG")
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            # or one photo that is too large would stop the job whenever it is its turn
            fix = "shrink it, or label it alone, where more memory is"
            raise UserError("memory ran out while it was labelled", fix=fix, file=name) from error
        return png.getvalue()

    return work.job.label_part(number, part, label)


def measure_part(work: ToMeasure, first: int, last: int) -> Scores:
    """Measure the photos from `first` to the one before `last`."""
    # what all processes of a machine share can only be read
    scores = copy.deepcopy(work.scores)
    return measured(_opened(work.model, work.how), work.dataset, scores, range(first, last))


@lru_cache(maxsize=1)
def _opened(model: str, how: Labelling) -> Predictor:
    # as many processes as processors are there; more threads than one each stand in each other's way
    torch.set_num_threads(1)
    keep_freed_memory()
    # a process that was given no GPU would share the first with all others
    return open_predictor(model, how, device="cpu" if how.device == "auto" else None)
