"""One run a folder: none is overwritten by mistake, and no two processes train into one at the same time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from deeplab.errors import UserError
from deeplab.model.checkpoint import WEIGHTS_NAME
from deeplab.system.writing import cannot_write, put_in_place
from deeplab.train.run_folder.checkpointing import BEFORE_NAME, CHECKPOINT_NAME, read_checkpoint
from deeplab.train.run_folder.record import RECORD_NAME

BEST_FOLDER = "best"
DAMAGED_NAME = "checkpoint-damaged.safetensors"
RUN_FILES = (CHECKPOINT_NAME, BEFORE_NAME, DAMAGED_NAME, WEIGHTS_NAME, RECORD_NAME)


def claim_folder(folder: Path, *, resume: bool, overwrite: bool) -> tuple[bytes, list[str]] | None:
    """The checkpoint to go on from, as it is stored, and what is to be said of it; None where a run starts.

    Args:
        folder: of the run.
        resume: go on with the run there, if there is one.
        overwrite: start anew where there is one, whose files are removed.

    Raises:
        UserError: a run is there and is not to be resumed or overwritten, or cannot be. A damaged checkpoint is
            moved aside where the one before it is whole.
    """
    held = [name for name in RUN_FILES if (folder / name).exists()]
    if overwrite:
        for name in held:
            _change(folder / name, Path.unlink)
        shutil.rmtree(folder / BEST_FOLDER, ignore_errors=True)
        return None
    if held and not resume:
        raise UserError(
            f"{folder} holds a run already ({', '.join(held)})",
            fix=("--resume to go on with it, --overwrite to start anew in its place, or name another folder"),
        )
    found = read_checkpoint(folder)
    if held and found is None:
        raise UserError(
            f"{folder} holds {held[0]} but no {CHECKPOINT_NAME} to resume from",
            fix="--overwrite to start anew in its place, or name another folder",
        )
    if found is not None and found[1] and (folder / CHECKPOINT_NAME).exists():
        # or the next checkpoint would put it in the place of the whole one
        _change(folder / CHECKPOINT_NAME, lambda path: put_in_place(path, folder / DAMAGED_NAME))
    return found


def _change(path: Path, change: Callable[[Path], object]) -> None:
    try:
        change(path)
    except OSError as error:
        raise cannot_write(path, error, "name another folder") from error
