"""One run a folder: none is overwritten by mistake, and no two processes train into one at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deeplab.errors import UserError
from deeplab.model.checkpoint import WEIGHTS_NAME
from deeplab.system.writing import cannot_write, remove_remains
from deeplab.train.run_folder.checkpointing import CHECKPOINT_NAME, read_checkpoint

RUN_FILES = (CHECKPOINT_NAME, WEIGHTS_NAME, "run.json")
LOCK_NAME = ".lock"


def claim_folder(folder: Path, *, resume: bool) -> bytes | None:
    """The checkpoint to go on from, as it is stored; None where a run starts.

    Raises:
        UserError: a run is there and is not to be resumed, or cannot be.
    """
    stored = read_checkpoint(folder)
    held = [name for name in RUN_FILES if (folder / name).exists()]
    if resume and stored is None and WEIGHTS_NAME in held:
        raise UserError(
            f"{folder} holds a model but no {CHECKPOINT_NAME} to resume from; fix: name another folder"
        )
    if held and not resume:
        raise UserError(
            f"{folder} holds a run already ({', '.join(held)}); fix: --resume to go on with it, or name another folder"
        )
    return stored


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from training into `folder`, which is made if missing; ends with this process.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_NAME).open("w")
    except OSError as error:
        raise cannot_write(folder / LOCK_NAME, error, "name another folder") from error
    with lock as file:
        try:
            # of this process alone: a lock by flock would live on in data workers that survive a kill
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"another process is training into {folder}; fix: wait for it or stop it, or name another folder"
            ) from None
        except (ImportError, OSError):
            # Windows, and file systems without locks, do without
            pass
        remove_remains(folder)
        yield
