"""Teachers of a distillation: each labels the training photos once, before the first update."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from deeplab.config import DeepLabConfig
from deeplab.data.dataset import SegmentationDataset
from deeplab.data.teacher_maps import (
    Grid,
    TeacherMaps,
    class_matches,
    is_map_folder,
    map_path,
    photos_without_map,
    write_classes,
    write_map,
)
from deeplab.errors import UserError
from deeplab.layers.resize import ceil_divide, resize_bilinear
from deeplab.model.checkpoint import load
from deeplab.model.network import DeepLab
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.system.cache import cache_folder
from deeplab.system.processes import World, gather
from deeplab.train.recipe.distil import DistilRecipe

# of the kept maps: a teacher's outlines are no finer
STRIDE = 8
NEWS_EVERY = 250


class Teaching(NamedTuple):
    """The maps to train with, and what the run's record says of their teachers."""

    maps: TeacherMaps
    record: list[dict[str, Any]]


def prepare_teachers(
    recipe: DistilRecipe,
    dataset: SegmentationDataset,
    *,
    student: DeepLab,
    data: str,
    world: World,
    on_news: Callable[[str], None],
) -> Teaching:
    """Have every teacher label the photos of `dataset` that it has not labelled before, each process a part of them.

    Args:
        recipe: who teaches.
        dataset: of the training.
        student: what is trained.
        data: the fingerprint of the training data.
        world: this process among all.
        on_news: told now and then how far it is.

    Raises:
        UserError: no such teacher, too few classes in common, maps that are missing in a folder of stored ones, two
            photos of one name, or maps that cannot be written.
    """
    folders, record = [], []
    for teacher in recipe.teacher:
        folder = Path(teacher)
        if is_map_folder(folder):
            missing = photos_without_map(folder, dataset.source)
            if missing:
                wanted = map_path(folder, dataset.source.files(missing[0])[0])
                raise UserError(
                    f"distil.teacher: {wanted} is missing, as are {len(missing) - 1} further maps"
                )
            record.append({"teacher": teacher})
        else:
            folder, said = _label(teacher, recipe, dataset, student, data=data, world=world, on_news=on_news)
            record.append(said)
        folders.append(folder)
    grid = Grid(student.logits_stride, student.config.resize)
    return Teaching(TeacherMaps(folders, student.labels.classes, grid), record)


def _label(
    teacher: str,
    recipe: DistilRecipe,
    dataset: SegmentationDataset,
    student: DeepLab,
    *,
    data: str,
    world: World,
    on_news: Callable[[str], None],
) -> tuple[Path, dict[str, Any]]:
    try:
        # a model draws its first weights, and a run's dropout must not depend on whether it has a teacher
        with torch.random.fork_rng(devices=()):
            model = load(teacher)
    except UserError as error:
        raise UserError(
            f"distil.teacher: {error}; or a folder of stored maps with their classes.json"
        ) from None
    if model.config.pixels.read_as() != student.config.pixels.read_as():
        raise UserError(
            f"distil.teacher: {teacher} reads {', '.join(model.config.pixels.names)} "
            f"({model.config.pixels.values}) and the model to train "
            f"{', '.join(student.config.pixels.names)} ({student.config.pixels.values})",
            fix="a teacher that reads the same, or a folder of its stored maps",
        )
    classes = model.labels.classes
    class_matches(classes, student.labels.classes, teacher)
    # probabilities are wanted, which eight bits round
    model.eight_bit = False
    how = Labelling(
        scales=recipe.scales, flip=recipe.flip, output_stride=recipe.output_stride, device=world.device
    )
    digest = _digest(model)
    told = json.dumps([digest, data, recipe.scales, recipe.flip, recipe.output_stride, STRIDE])
    folder = cache_folder() / "teachers" / hashlib.sha256(told.encode()).hexdigest()[:32]
    missing = photos_without_map(folder, dataset.source)
    if missing:
        write_classes(folder, classes)
        on_news(f"the teacher {teacher} labels {len(missing)} photos, once; kept in {folder}")
        predictor = Predictor.of(model, how)
        for done, index in enumerate(missing[world.rank :: world.size]):
            if done and done % NEWS_EVERY == 0:
                on_news(f"{teacher}: {done * world.size} of {len(missing)} photos")
            _, found = predictor.probabilities_of(dataset.load(index)[0])
            height, width = found.shape[-2:]
            size = ceil_divide(height, STRIDE), ceil_divide(width, STRIDE)
            small = resize_bilinear(found[None], size, "align_corners")[0]
            write_map(map_path(folder, dataset.source.files(index)[0]), small.numpy())
    gather(None, world)
    return folder, {"teacher": teacher, "sha256": digest, "provenance": model.provenance}


def _digest(model: DeepLab) -> str:
    """sha256 of what the model computes: architecture, class names and weights."""
    config: DeepLabConfig = model.config
    digest = hashlib.sha256(json.dumps([config.to_json(), model.labels.classes]).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
