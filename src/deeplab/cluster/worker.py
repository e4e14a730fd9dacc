"""What one process of many does: it opens the model once, and labels shard after shard on one thread."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from deeplab.cluster.shards import Job
from deeplab.errors import UserError
from deeplab.imaging.label_maps import label_map_picture
from deeplab.imaging.scenes import is_scene
from deeplab.prediction.artefacts import open_predictor
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.system.memory import keep_freed_memory


def label_shard(job: Job, number: int, model: str, how: Labelling) -> int:
    """Label a shard of a job; its number, when it is done. Engines call this in processes of theirs."""
    predictor = _opened(model, how)
    palette = np.array(predictor.labels.palette, np.uint8)

    def label(photo: Path) -> bytes:
        if is_scene(photo):
            raise UserError(
                "is a scene, whose place and pixels without data a label map of a photo does not keep",
                fix="label it without --cluster",
                file=photo,
            )
        labels = predictor.labels_of(predictor.photo(photo)).numpy()
        content = BytesIO()
        label_map_picture(labels, palette=palette).save(content, "PNG")
        return content.getvalue()

    job.label_shard(number, label)
    return number


@lru_cache(maxsize=1)
def _opened(model: str, how: Labelling) -> Predictor:
    # as many processes as processors are there; more threads than one each stand in each other's way
    torch.set_num_threads(1)
    keep_freed_memory()
    return open_predictor(model, how)
