"""What goes wrong inside a training step, told to the person who can fix it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes

from deeplab.config import TimmConfig
from deeplab.errors import UserError
from deeplab.model.network import DeepLab
from deeplab.system.memory import ran_out_of_memory
from deeplab.system.processes import World
from deeplab.system.writing import write_whole
from deeplab.train.loop import Batch
from deeplab.train.recipe import Recipe


@contextmanager
def explained(recipe: Recipe) -> Iterator[None]:
    """Turn memory that ran out, here or in a data worker, into one message.

    Raises:
        UserError: instead of that; every other error passes.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        advice = _memory_advice(error, recipe)
        if advice is None:
            raise
        raise advice from error


def refuse_beyond_memory(recipe: Recipe, world: World) -> None:
    """See that weights and photos alone fit into the memory, before anything starts.

    Raises:
        UserError: what a step holds at the very least is more than this machine has, or this GPU.
    """
    settings, config = recipe.optimise, recipe.model.config(len(recipe.data.classes))
    weights = 0
    if not isinstance(config.backbone, TimmConfig):
        with torch.device("meta"):
            weights = sum(value.numel() for value in DeepLab(config).parameters())
    height, width = recipe.augment.crop
    photos = -(-settings.batch_size // (world.size * settings.accumulate))
    # float32 weights, gradients and momentum; uint8 photos and labels, and the photos as float32
    least = weights * (16 if settings.average else 12) + photos * height * width * 16
    if world.device.startswith("cuda"):
        memory = torch.cuda.mem_get_info(world.device)[1]
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else least
    if least > memory:
        raise UserError(
            f"a step needs more than {least >> 30} GiB of memory, of which there are {memory >> 30}: "
            f"{weights:,} weights, and {photos} photos of {height} x {width} at a time",
            fix="a smaller model, optimise.batch_size or augment.crop, or a larger optimise.accumulate",
        )


def save_batch(path: Path, parts: Sequence[Batch]) -> Path:
    """Write a batch as the network saw it: `images.N` uint8 [N, 3, H, W], `labels.N` and `teacher.N.I` for its parts.

    Returns:
        the path written.

    Raises:
        UserError: it cannot be written.
    """
    tensors = {}
    for number, (images, labels, *taught) in enumerate(parts):
        tensors[f"images.{number}"] = images.cpu().contiguous()
        tensors[f"labels.{number}"] = labels.cpu().contiguous()
        tensors |= {f"teacher.{number}.{index}": maps.cpu().contiguous() for index, maps in enumerate(taught)}
    return write_whole(path, to_bytes(tensors))


def _memory_advice(error: Exception, recipe: Recipe) -> UserError | None:
    text = str(error)
    if "DataLoader worker" in text and "killed" in text:
        return UserError(
            "a data worker was killed, mostly for want of memory",
            fix=f"workers: {max(0, recipe.workers - 1)}",
        )
    if not ran_out_of_memory(error):
        return None
    settings = recipe.optimise
    wishes = [f"optimise.accumulate: {2 * settings.accumulate} (same result but for batch norm)"]
    if not settings.recompute:
        wishes.append("optimise.recompute: true (same result, slower)")
    if settings.precision == "float32":
        wishes.append("optimise.precision: auto (bfloat16 where the device has it)")
    wishes.append(f"a crop below {recipe.augment.crop}")
    return UserError(
        f"memory ran out with optimise.batch_size {settings.batch_size}, accumulate {settings.accumulate} "
        f"({text.splitlines()[0] if text else 'MemoryError'})",
        fix=f"best first: {'; '.join(wishes)}",
    )
