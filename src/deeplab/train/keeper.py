"""What happens between updates: the log, the moving average, validations, pictures, and checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from deeplab.data.dataset import SegmentationDataset
from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.model.checkpoint import save
from deeplab.system.processes import World
from deeplab.train.learner import Learner, state_of
from deeplab.train.loop import StepReport
from deeplab.train.norms import training_mode
from deeplab.train.recipe import Recipe
from deeplab.train.run_folder.checkpointing import write_checkpoint
from deeplab.train.run_folder.folder import BEST_FOLDER
from deeplab.train.run_folder.log import RunLog, TensorBoardLog
from deeplab.train.run_folder.record import write_record
from deeplab.train.run_folder.samples import save_samples
from deeplab.train.validation import summary, validate


class Watcher(NamedTuple):
    """Who is told about progress: each update, each validation photo, and other news as a line."""

    on_step: Callable[[StepReport], None]
    on_photo: Callable[[], None]
    on_news: Callable[[str], None] = lambda line: None


SILENT = Watcher(lambda report: None, lambda: None)


class Keeper:
    """Keeps what a run makes in its folder; a context manager, as it holds the log open.

    Validations and checkpoints need every process, files only the main one.

    Args:
        learner: what is kept.
        validation: without a transform.
        record: of the run, see `deeplab.train.run_folder.record.describe_run`; saved with every model.
        kept: JSON values of every checkpoint: `recipe`, `data`, `started`, `resumed`, `extended`, `best`,
            `seconds`.
        first_step: updates already done.
        tensorboard: also write `tensorboard/`.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        learner: Learner,
        validation: SegmentationDataset,
        record: dict[str, Any],
        kept: dict[str, Any],
        first_step: int,
        world: World,
        watcher: Watcher,
        tensorboard: bool,
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.learner, self.validation = learner, validation
        self.record, self.kept = record, kept
        self.world, self.watcher = world, watcher
        self.log = self.board = None
        if world.is_main:
            self.board = TensorBoardLog(folder, first_step=first_step) if tensorboard else None
            self.log = RunLog(folder, first_step=first_step, seconds=kept["seconds"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for log in self._logs():
            log.close()

    def after_step(self, report: StepReport) -> None:
        """Everything that is due after an update; the model is in train mode again afterwards."""
        settings, done = self.recipe.optimise, report.step + 1
        # of all processes together
        report = report._replace(photos=settings.batch_size)
        if self.learner.average:
            self.learner.average.update(report.step)
        for log in self._logs():
            log.step(report)
        self.watcher.on_step(report)
        last = done == settings.steps
        validates = _is_due(settings.validate_every, done) and not last
        pictures = _is_due(settings.samples_every, done)
        if validates:
            self.validate(done)
        if pictures and self.world.is_main:
            save_samples(self.learner.result, self.validation, self.folder, step=done)
        if validates or pictures:
            training_mode(self.learner.model, settings.freeze_norm)
        if last or _is_due(settings.save_every, done):
            self.keep(done)

    def validate(self, done: int) -> ConfusionMatrix:
        """Measure the result after `done` updates; the best so far goes into `best/`."""
        result = self.learner.result
        confusion = validate(result, self.validation, world=self.world, on_photo=self.watcher.on_photo)
        confusion.require_labelled(f"the split {self.recipe.data.val}")
        measured = summary(confusion, result.labels, self.recipe.data.val)
        for log in self._logs():
            log.validation(done, measured)
        self.watcher.on_news(f"mean IoU {measured['mean IoU']:.4f} after step {done}")
        best = self.kept["best"]
        if self.recipe.optimise.validate_every and (best is None or confusion.mean_iou() > best["exact"]):
            self.kept["best"] = {
                "step": done,
                "mean IoU": measured["mean IoU"],
                "exact": confusion.mean_iou(),
            }
            if self.world.is_main:
                self._save(self.folder / BEST_FOLDER, {"step": done, "validation": measured})
        return confusion

    def keep(self, done: int) -> None:
        """Write the checkpoint, and the model as it is after `done` updates."""
        if self.log:
            self.kept["seconds"] = round(self.log.seconds, 2)
        state = state_of(self.learner, done, self.kept, self.world)
        if self.world.is_main:
            # the checkpoint first: a model without one is not a run that can be resumed
            write_checkpoint(self.folder, state)
            self._save(self.folder, {"step": done})

    def finish(self) -> ConfusionMatrix:
        """Validate, and write the final model and `run.json`."""
        confusion = self.validate(self.recipe.optimise.steps)
        if self.world.is_main:
            best = self.kept["best"]
            self.record["training seconds"] = round(self.kept["seconds"])
            self.record["validation"] = summary(confusion, self.learner.model.labels, self.recipe.data.val)
            if best:
                self.record["best"] = {key: best[key] for key in ("step", "mean IoU")}
            self._save(self.folder, {})
            write_record(self.folder, self.record)
        return confusion

    def _save(self, folder: Path, more: dict[str, Any]) -> None:
        model = self.learner.result
        # models are handed on; what was typed holds folders of this machine
        record = {key: value for key, value in self.record.items() if key != "command"}
        model.provenance = copy.deepcopy(record) | more
        save(model, folder)

    def _logs(self) -> list[RunLog | TensorBoardLog]:
        return [log for log in (self.log, self.board) if log is not None]


def _is_due(every: int, done: int) -> bool:
    return every > 0 and done % every == 0
