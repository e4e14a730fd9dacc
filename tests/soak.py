"""Hours of use in little: python tests/soak.py [--minutes 60] or [--kills 100].

Trains with kills at random moments, each run resumed until it ends and compared with one that nobody disturbed, bit for
bit; with --minutes, predicts and serves between the kills, with equal answers and flat memory. Prints what happened;
the exit status is 1 if anything differed. `make soak` runs an hour; --kills N alone counts kills of training.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

# in spawned processes, too
sys.path.insert(0, str(Path(__file__).parent))

from support.servers import Client, command, noise, png
from support.training_runs import PROCESSES, make_squares, squares_recipe, start_run

from deeplab.model.checkpoint import load
from deeplab.prediction.segmenter import Segmenter
from deeplab.train.recipe import Recipe
from deeplab.train.run_folder.checkpointing import CHECKPOINT_NAME, parse_checkpoint

STEPS = 24
PATIENCE = 300.0
SIZES = ((97, 129), (33, 400), (260, 200))
# growth of a process after it has done everything once; the heap is kept at its peak by intent
MEGABYTES = 64


class Kills:
    """Runs of training that are killed at random and resumed, and what became of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.moments = random.Random(seed)
        self.count = self.ends = self.untouched = 0
        data = make_squares(folder / "squares", side=40, photos=9)
        self.recipe = _recipe(data)
        self.reference, self.folder = folder / "reference", folder / "run"
        # what all runs are forked from starts once
        first = PROCESSES.Process(target=int)
        first.start()
        first.join()
        began = time.monotonic()
        process = start_run(self.recipe, self.reference)
        process.join(PATIENCE)
        assert process.exitcode == 0
        self.seconds = self.span = time.monotonic() - began
        self.wrong: list[str] = []

    def one(self) -> None:
        """Start or resume the run and kill it at some moment of its life; a run that ends first is compared."""
        process = start_run(self.recipe, self.folder, resume=True)
        process.join(self.moments.uniform(0, self.span))
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            # it may have ended between the two
            if process.exitcode == -signal.SIGKILL:
                self.count += 1
                # or no run would end, once the machine is busier than it was at first
                self.span *= 1.1
                return
        self._ended(process.exitcode)

    def finish(self) -> None:
        """Let the run that is under way end."""
        process = start_run(self.recipe, self.folder, resume=True)
        process.join(PATIENCE)
        self._ended(process.exitcode)

    def _ended(self, code: int | None) -> None:
        self.span = self.seconds
        if code != 0:
            self.wrong.append(f"a resumed run ended with exit status {code}")
        else:
            self.ends += 1
            record = json.loads((self.folder / "run.json").read_text())
            self.untouched += not record["resumed after"]
            self.wrong += _differences(self.folder, self.reference)
        shutil.rmtree(self.folder)


def _recipe(data: Path) -> Recipe:
    """All that a checkpoint holds is in use: dropout, momentum, moving average, schedule, best."""
    settings = {"accumulate": 2, "average": 0.5, "save_every": 2, "validate_every": 6, "warmup_steps": 4}
    recipe = squares_recipe(data, steps=STEPS, batch_size=4, **settings)
    return recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"crop": (33, 33)})})


def _differences(folder: Path, reference: Path) -> Iterator[str]:
    first, second = (
        parse_checkpoint((each / CHECKPOINT_NAME).read_bytes(), str(each)).tensors
        for each in (folder, reference)
    )
    if first.keys() != second.keys():
        yield "the checkpoints hold other tensors"
    else:
        yield from (f"{name} differs" for name in first if not torch.equal(first[name], second[name]))
    for part in (".", "best"):
        ours, theirs = load(folder / part).state_dict(), load(reference / part).state_dict()
        yield from (f"{part}: {name} differs" for name in ours if not torch.equal(ours[name], theirs[name]))
    losses = [
        [json.loads(line).get("loss") for line in (each / "log.jsonl").read_text().splitlines()]
        for each in (folder, reference)
    ]
    if losses[0] != losses[1]:
        yield "the logs differ"
    yield from (f"{path} is left behind" for path in folder.rglob(".*.tmp"))


def _resident(pid: int) -> int:
    """MB that the process and its children hold."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pages + sum(_resident(int(child)) for child in children)


class Answers:
    """What a predictor of this process and a server say of the same photos, and what memory they hold."""

    def __init__(self, model: Path, server: tuple[int, Client]) -> None:
        self.segmenter, (self.pid, self.client) = Segmenter(model, device="cpu"), server
        self.photos = [noise(*size, seed=number) for number, size in enumerate(SIZES)]
        self.expected = self._ask()
        # by whom, in the first tenth and last: MB
        self.held: list[tuple[int, int]] = []
        self.asked, self.wrong = 0, list[str]()

    def ask(self) -> None:
        """All photos of both."""
        self.asked += len(self.photos)
        if self._ask() != self.expected:
            self.wrong.append("labels of the same photo differ")
        self.held.append((_resident(os.getpid()), _resident(self.pid)))

    def _ask(self) -> list[bytes]:
        found = [self.segmenter(photo).labels for photo in self.photos]
        replies = [self.client.segment(png(photo), "output=labels") for photo in self.photos]
        assert all(reply.status == 200 for reply in replies), [reply.status for reply in replies]
        return [np.ascontiguousarray(labels).tobytes() for labels in found] + [
            reply.body for reply in replies
        ]

    def growth(self) -> tuple[int, int]:
        """MB that each has grown by, from a tenth of the time to its end."""
        first, last = self.held[len(self.held) // 10], self.held[-1]
        return last[0] - first[0], last[1] - first[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--kills", type=int, help="only training, until it was killed so often")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as inside, ExitStack() as held:
        kills, wrong = Kills(Path(inside), options.seed), list[str]()
        if options.kills:
            while kills.count < options.kills:
                kills.one()
        else:
            process, client = held.enter_context(
                command("--model", kills.reference, log=Path(inside) / "server.log")
            )
            answers = Answers(kills.reference, (process.pid, client))
            while time.monotonic() - began < 60 * options.minutes:
                kills.one()
                answers.ask()
            growth = answers.growth()
            print(
                f"photos labelled here and over HTTP: {answers.asked} each; growth in MB: {growth[0]} and {growth[1]}"
            )
            wrong += answers.wrong
            wrong += [f"memory grew by {each} MB" for each in growth if each > MEGABYTES]
        if kills.folder.exists():
            kills.finish()
        wrong += kills.wrong
        print(
            f"kills of training: {kills.count}; runs that ended: {kills.ends}, of which {kills.untouched} were never "
            f"resumed; each compared with an undisturbed one: {'all equal' if not kills.wrong else 'NOT equal'}; "
            f"{time.monotonic() - began:.0f} s"
        )
    for each in wrong[:20]:
        print(f"WRONG: {each}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
