"""A tiny data set and recipe, and training runs in processes of their own, for the tests of training."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from deeplab.train.recipe import Recipe
from deeplab.train.run import train

COLOURS = np.array([[20, 20, 20], [230, 40, 40], [40, 60, 230]], np.uint8)
NAMES = ("background", "red", "blue")
PROCESSES = multiprocessing.get_context("forkserver")
# imported once, with what torch imports late: each run is then a fork of a process that has computed nothing yet
PROCESSES.set_forkserver_preload(["torch._dynamo", "support.training_runs", "support.distributed_runs"])


def make_squares(root: Path, *, side: int = 64, photos: int = 12) -> Path:
    """A VOC-style data set of coloured rectangles on dark ground, with noise."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"photo{index}" for index in range(photos)]
    half = side // 2
    for name in names:
        labels = np.zeros((side, side), np.uint8)
        for value in (1, 2):
            top, left = random.integers(0, half, 2)
            labels[top : top + half, left : left + half] = value
        noise = random.integers(-15, 16, (side, side, 3))
        Image.fromarray(np.clip(COLOURS[labels] + noise, 0, 255).astype(np.uint8)).save(
            root / f"JPEGImages/{name}.png"
        )
        labels[0] = 255
        Image.fromarray(labels).save(root / f"SegmentationClass/{name}.png")
    held_out = photos // 3
    lists = root / "ImageSets/Segmentation"
    (lists / "train.txt").write_text("\n".join(names[:-held_out]) + "\n")
    (lists / "val.txt").write_text("\n".join(names[-held_out:]) + "\n")
    return root


def squares_recipe(root: Path, *, workers: int = 0, **optimise: Any) -> Recipe:
    """Two small parts of everything; training takes a few hundredths of a second a step."""
    return Recipe.model_validate(
        {
            "name": "squares",
            "data": {"root": str(root), "names": NAMES, "classes": NAMES},
            "model": {
                "output_stride": 8,
                "backbone": {"name": "mobilenet_v2", "width": 0.35, "norm": {"momentum": 0.1}},
                "context": {"channels": 16},
                "decoder": {"channels": 16, "low_level_channels": 8},
                "head_norm": {"momentum": 0.1},
            },
            "augment": {"crop": (49, 49), "scales": (1.0, 1.25)},
            "optimise": {"steps": 120, "batch_size": 8, "learning_rate": 0.2, **optimise},
            "workers": workers,
        }
    )


def start_run(recipe: Recipe, folder: Path, *, resume: bool = False, slow_disk: float = 0.0) -> BaseProcess:
    """Train in a process of its own, which may be killed."""
    process = PROCESSES.Process(target=_run, args=(recipe.model_dump(mode="json"), folder, resume, slow_disk))
    process.start()
    return process


def _run(values: dict[str, Any], folder: Path, resume: bool, slow_disk: float) -> None:
    torch.set_num_threads(1)
    to_disk = os.fsync

    def slowly(file: int) -> None:
        time.sleep(slow_disk)
        to_disk(file)

    os.fsync = slowly
    train(Recipe.model_validate(values), folder, device="cpu", resume=resume)
