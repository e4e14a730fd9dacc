"""What a run writes down as it goes: a line of JSON for each update and each validation; TensorBoard on demand.

TensorBoard's files are written by tensorboardX: small and without a server, which `pip install tensorboard`
brings where the files are looked at.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from deeplab.errors import UserError, require
from deeplab.system.reading import read_bytes
from deeplab.system.writing import Appended, cannot_write, write_whole
from deeplab.train.loop import StepReport

LOG_NAME = "log.jsonl"
# of the files that tensorboardX leaves to us
SCHEME = "deeplab"


class RunLog:
    """`log.jsonl` in a folder; on resume what came after the checkpoint is dropped."""

    def __init__(self, folder: Path, *, first_step: int = 0, seconds: float = 0.0) -> None:
        """Open the log.

        Args:
            folder: of the run.
            first_step: updates already done; later lines are removed.
            seconds: that the run took until then.

        Raises:
            UserError: the log cannot be written, as may be at every later line.
        """
        self.path = folder / LOG_NAME
        kept = _lines_before(self.path, first_step)
        # killed behind the last validation, a run does it again
        self._validated = {json.loads(line).get("validated_after") for line in kept}
        write_whole(self.path, "".join(kept))
        self._file = Appended(self.path)
        self.seconds = seconds

    def step(self, report: StepReport) -> None:
        """A line for an update."""
        self.seconds += report.seconds
        self._write(
            {
                "step": report.step,
                "loss": report.loss,
                "learning_rate": report.learning_rate,
                "images_per_second": round(report.photos / max(report.seconds, 1e-9), 2),
                "data_wait": round(report.waited / max(report.seconds, 1e-9), 3),
                "seconds": round(self.seconds, 2),
            }
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def validation(self, step: int, result: dict[str, Any]) -> None:
        """A line for a validation after `step` updates, unless there is one."""
        if step not in self._validated:
            self._write({"validated_after": step, **result})

    def _write(self, values: dict[str, Any]) -> None:
        self._file.write(json.dumps(values) + "\n")


class TensorBoardLog:
    """Scalars in `tensorboard/` inside the run's folder.

    Raises:
        UserError: the extra `tensorboard` is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        library = require("tensorboardX", extra="tensorboard")
        self._events = _Events(folder / "tensorboard")
        writers = require("tensorboardX.record_writer", extra="tensorboard")
        writers.register_writer_factory(SCHEME, self._events)
        self._writer = library.SummaryWriter(f"{SCHEME}:", purge_step=first_step or None)

    def step(self, report: StepReport) -> None:
        """Loss, learning rate and speed of an update.

        Raises:
            UserError: an earlier line could not be written.
        """
        self._events.check()
        self._writer.add_scalar("train/loss", report.loss, report.step)
        self._writer.add_scalar("train/learning_rate", report.learning_rate, report.step)
        self._writer.add_scalar(
            "train/images_per_second", report.photos / max(report.seconds, 1e-9), report.step
        )

    def validation(self, step: int, result: dict[str, Any]) -> None:
        """Mean IoU and the IoU of each class after `step` updates; raises as `step` does."""
        self._events.check()
        self._writer.add_scalar("validation/mean_iou", result["mean IoU"], step)
        for name, value in result["IoU"].items():
            if value is not None:
                self._writer.add_scalar(f"validation_iou/{name}", value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class _Events:
    """What tensorboardX opens and its thread writes to.

    An error would end the thread, and training would wait for it for ever: it is kept for `check` instead.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failure: UserError | None = None

    def directory_check(self, path: str) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self._folder, error) from error

    def open(self, path: str) -> Self:
        self._file = Appended(self._folder / Path(path).name)
        return self

    def write(self, content: bytes) -> None:
        try:
            self._file.write(content)
        except UserError as error:
            self._failure = error

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self._file.close()

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure


def _lines_before(path: Path, first_step: int) -> list[str]:
    """Whole lines about the first `first_step` updates; a broken last line is not one."""
    if first_step == 0 or not path.is_file():
        return []
    kept = []
    for line in read_bytes(path).decode(errors="replace").splitlines(keepends=True):
        try:
            values = json.loads(line)
            if values.get("step", values.get("validated_after", 0) - 1) < first_step:
                kept.append(line)
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
    return kept
