"""What a person sees of a training: a live table on a terminal, quiet lines otherwise."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from rich.console import Console
from rich.live import Live
from rich.table import Table

from deeplab.cli.tables import fitting
from deeplab.train.keeper import Watcher
from deeplab.train.loop import StepReport

QUIET_EVERY = 50
REDRAW_SECONDS = 0.2
# steps that the shown loss and speed are means of
RECENT = 50


@contextmanager
def training_display(steps: int, *, device: str) -> Iterator[Watcher]:
    """Whom to tell about the progress of a training of `steps` updates; on the error stream."""
    console = Console(stderr=True)
    progress = TrainingProgress(steps, device=device)
    drawn = 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def draw() -> None:
            nonlocal drawn
            if console.is_terminal and time.monotonic() - drawn > REDRAW_SECONDS:
                live.update(fitting(progress.table(), console), refresh=True)
                drawn = time.monotonic()

        def say(line: str) -> None:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

        def on_step(report: StepReport) -> None:
            progress.add(report)
            done = report.step + 1
            draw()
            if done == steps or (not console.is_terminal and done % QUIET_EVERY == 0):
                say(progress.line())

        def on_photo() -> None:
            progress.photos_validated += 1
            draw()

        yield Watcher(on_step, on_photo, say)


class TrainingProgress:
    """Figures of the last few updates.

    Attributes:
        photos_validated: photos of the validation that goes on; the next update ends it.
    """

    def __init__(self, steps: int, *, device: str) -> None:
        self.steps, self.device = steps, device
        self.photos_validated = 0
        self._recent: deque[StepReport] = deque(maxlen=RECENT)

    def add(self, report: StepReport) -> None:
        """An update is done."""
        self._recent.append(report)
        self.photos_validated = 0

    def figures(self) -> dict[str, str]:
        """What is shown, by name; means over the last updates."""
        if not self._recent:
            return {"step": f"0/{self.steps}"}
        last = self._recent[-1]
        seconds = max(sum(report.seconds for report in self._recent), 1e-9)
        done = last.step + 1
        left = seconds / len(self._recent) * (self.steps - done)
        shown = {
            "step": f"{done}/{self.steps}",
            "loss": f"{sum(report.loss for report in self._recent) / len(self._recent):.4f}",
            "learning rate": f"{last.learning_rate:.2e}",
            "images/s": f"{sum(report.photos for report in self._recent) / seconds:.1f}",
            "data wait": f"{sum(report.waited for report in self._recent) / seconds:.0%}",
            "memory": _in_gigabytes(memory_peak(self.device)),
            "left": str(timedelta(seconds=round(left))),
        }
        if self.photos_validated:
            shown["validated"] = f"{self.photos_validated} photos"
        return shown

    def table(self) -> Table:
        """The figures as a table of one row."""
        figures = self.figures()
        table = Table(title="training")
        for name in figures:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_row(*figures.values())
        return table

    def line(self) -> str:
        """The figures as a line."""
        return "  ".join(f"{name} {value}" for name, value in self.figures().items())


def memory_peak(device: str) -> int | None:
    """Most bytes held so far: by tensors on a GPU, else by this process; None where nobody can say."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return None
    # bytes on macOS, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _in_gigabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**30:.2f} GB"
