"""A training run: a recipe in, a folder with model, log and record out."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from deeplab.allocator import keep_freed_memory
from deeplab.checkpoint import save
from deeplab.data.augment import TrainAugment
from deeplab.data.recipe import DataRecipe
from deeplab.data.sampling import TrainSampler
from deeplab.data.voc import VOCDataset, select_classes
from deeplab.evaluation import evaluate
from deeplab.labels import LabelSpec
from deeplab.metrics import ConfusionMatrix
from deeplab.model import DeepLab
from deeplab.train.engine import StepReport, train_steps
from deeplab.train.optimiser import parameter_groups
from deeplab.train.recipe import Recipe
from deeplab.train.schedules import learning_rate
from deeplab.train.start import start_from

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SAVE_EVERY = 200


class Watcher(NamedTuple):
    """Who is told about progress: each update, and each validation photo."""

    on_step: Callable[[StepReport], None]
    on_photo: Callable[[], None]


def train(recipe: Recipe, folder: Path, *, device: str, watcher: Watcher) -> ConfusionMatrix:
    """Train, validate and save into `folder`.

    Writes `recipe.json` (resolved), `log.jsonl` (one line a step), `model.safetensors` with `config.json`
    (every 200 steps and at the end) and `run.json` (what reproduces the run, with the result).

    Returns:
        the confusion matrix on the validation split.

    Raises:
        UserError: data, start weights or settings that are wrong.
    """
    keep_freed_memory()
    torch.manual_seed(recipe.seed)
    dataset = training_set(recipe)
    validation = open_split(recipe.data, recipe.data.val)
    model = DeepLab(recipe.model.config(len(recipe.data.classes)), LabelSpec.named(recipe.data.classes))
    started = start_from(model, recipe.start)
    model = model.to(device, memory_format=torch.channels_last).train()
    record = _record(recipe, started, dataset)
    model.provenance = record
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "recipe.json", recipe.model_dump(mode="json"))
    settings = recipe.optimise
    optimiser = torch.optim.SGD(
        parameter_groups(model, weight_decay=settings.weight_decay, head_multiplier=settings.head_multiplier),
        lr=settings.learning_rate,
        momentum=settings.momentum,
    )
    begin = time.monotonic()
    with (folder / "log.jsonl").open("w", encoding="utf-8") as log:

        def on_step(report: StepReport) -> None:
            line = {**report._asdict(), "seconds": round(time.monotonic() - begin, 2)}
            log.write(json.dumps(line) + "\n")
            log.flush()
            if (report.step + 1) % SAVE_EVERY == 0:
                save(model, folder)
            watcher.on_step(report)

        train_steps(
            model,
            batches(dataset, recipe),
            optimiser=optimiser,
            schedule=lambda step: learning_rate(
                step,
                base=settings.learning_rate,
                total_steps=settings.steps,
                power=settings.power,
                slow_start_steps=settings.warmup_steps,
                slow_start_rate=0.0,
                slow_start="linear",
            ),
            loss=recipe.loss,
            precision=PRECISIONS[settings.precision],
            on_step=on_step,
        )
    confusion = evaluate(model, photos_and_labels(validation), on_photo=watcher.on_photo)
    record["training seconds"] = round(time.monotonic() - begin)
    record["validation"] = summary(confusion, model.labels, recipe.data.val)
    save(model, folder)
    _write_json(folder / "run.json", record)
    return confusion


def open_split(
    data: DataRecipe, split: str, *, transform: TrainAugment | None = None, seed: int = 0
) -> VOCDataset:
    """The photos and masks of one split, with the recipe's classes."""
    return VOCDataset(
        data.root,
        split,
        labels=data.labels,
        num_classes=len(data.names),
        label_map=select_classes(data.names, data.classes, other=data.other),
        transform=transform,
        seed=seed,
    )


def training_set(recipe: Recipe) -> VOCDataset:
    """The training split under the recipe's augmentation; padding has the model's mean pixel."""
    augment = recipe.augment
    transform = TrainAugment(
        crop_size=augment.crop,
        scale_range=augment.scales,
        scale_step=augment.scale_step,
        flip_probability=augment.flip,
        jitter=augment.jitter,
        pad_pixel=recipe.model.pixels.mean,
    )
    return open_split(recipe.data, recipe.data.train, transform=transform, seed=recipe.seed)


def batches(dataset: VOCDataset, recipe: Recipe) -> DataLoader:
    """Exactly `steps` full batches; the same ones for any number of workers."""
    settings = recipe.optimise
    sampler = TrainSampler(len(dataset), seed=recipe.seed, stop=settings.steps * settings.batch_size)
    return DataLoader(
        dataset, batch_size=settings.batch_size, sampler=sampler, num_workers=recipe.workers, drop_last=True
    )


def photos_and_labels(dataset: VOCDataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every (photo, labels) at its own size, in the list's order."""
    return (dataset.load(index) for index in range(len(dataset)))


def summary(confusion: ConfusionMatrix, labels: LabelSpec, split: str) -> dict[str, Any]:
    """Mean IoU, IoU by class name, pixel accuracy; four digits, None for classes without ground truth."""
    per_class = {
        name: None if np.isnan(value) else round(float(value), 4)
        for name, value in zip(labels.classes, confusion.iou_per_class(), strict=True)
    }
    return {
        "split": split,
        "mean IoU": round(float(confusion.mean_iou()), 4),
        "IoU": per_class,
        "pixel accuracy": round(float(confusion.pixel_accuracy()), 4),
    }


def _record(recipe: Recipe, started: dict[str, Any], dataset: VOCDataset) -> dict[str, Any]:
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"data": {"root"}}),
        "start": started,
        "training photos": len(dataset),
        "versions": {name: version(name) for name in ("torch", "numpy", "pillow")},
        "python": platform.python_version(),
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, path)
