"""What a place to export to is: how its file is written, what it takes, and who may say so."""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from deeplab.errors import UserError
from deeplab.export.program import PhotoProgram
from deeplab.prediction.artefacts.description import Description

# bytes: what a library could not write may be a block larger than what it could
NEARLY_FULL = 1 << 20


@dataclass(frozen=True)
class Job:
    """One export, as far as a target has to know it.

    Attributes:
        program: what is exported.
        description: as it will stand in the file, without parity.
        calibration: for int8, photos, uint8 [H, W, channels].
        opset: of ONNX.
    """

    program: PhotoProgram
    description: Description
    calibration: Sequence[np.ndarray] = ()
    opset: int = 20


@dataclass(frozen=True)
class Target:
    """A place to export to.

    Attributes:
        name: as in --to.
        ending: of its file.
        modules: what must be importable, and the extra that brings it.
        precisions: that it can write.
        sizing: whether it takes any size, any up to a stated one, or those that are named.
        write: writes the file, with the description inside, which it returns as it stands there.
        stamp: puts another description into a file that was written, changing nothing else; None where only writing
            again could, so that parity stands in export.json alone.
        example: a script that labels a photo by the runtime alone; {file} and {names} are filled in.
        runtimes: distributions whose versions are noted.
        label_type: of labels.
        batch: whether several photos are taken at once.
        note: what every user of the file should know, if anything.
        runs_here: whether a file can be run where it is written.
    """

    name: str
    ending: str
    modules: tuple[str, ...]
    extra: str
    precisions: tuple[str, ...]
    write: Callable[[Job, Path], Description]
    stamp: Callable[[Path, Description], None] | None
    example: str
    runtimes: tuple[str, ...]
    sizing: Literal["any", "up to", "named"] = "any"
    several_sizes: bool = False
    label_type: torch.dtype = torch.uint8
    batch: bool = True
    note: str = ""
    runs_here: bool = True


@contextmanager
def quiet() -> Iterator[None]:
    """Silence for libraries that warn of themselves and draw their progress."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def converting(to: str, path: Path, *, fix: str = "") -> Iterator[None]:
    """Silence for a converter that writes `path`; what it raises becomes a sentence.

    Raises:
        UserError: the model cannot be converted.
        OSError: the file cannot be written, also where a library says so in words of its own.
    """
    try:
        with quiet(), torch.no_grad():
            yield
    except (OSError, UserError):
        raise
    except Exception as error:
        if shutil.disk_usage(path.parent).free < NEARLY_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        told = str(error).strip().splitlines()[-1:]
        if not told:
            # a bare assertion says by its own line what it wanted
            place = traceback.extract_tb(error.__traceback__)[-1]
            told = [f"{place.line} ({Path(place.filename).name}, line {place.lineno})"]
        raise UserError(
            f"this model cannot be converted to {to} ({type(error).__name__}: {told[0][:200]})", fix=fix
        ) from error
