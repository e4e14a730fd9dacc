"""Which photos make which update, on which process: decided by seed, step and rank alone.

One endless stream of samples (`deeplab.data.sampling`) is cut into updates of `batch_size` photos; each update
is dealt out to the processes and each process's photos to its parts. So an update holds the same photos
however many processes and parts compute it, the last hand may be uneven, and a resume needs only the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from deeplab.data.dataset import Sample
from deeplab.data.sampling import TrainSampler
from deeplab.errors import UserError
from deeplab.system.processes import ALONE, World

Key = tuple[int, int]


class UpdateSampler(Sampler[list[Key]]):
    """Keys of each batch of this process, `accumulate` batches an update."""

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        batch_size: int,
        accumulate: int,
        first_step: int,
        steps: int,
        world: World = ALONE,
    ) -> None:
        """Describe the updates `first_step` to `steps - 1`.

        Args:
            length: samples in the data set.
            seed: of the shuffles.
            batch_size: photos an update, over all processes and parts.
            accumulate: parts of a process's share of an update.
            first_step: updates already done.
            steps: updates of the whole training.
            world: this process among all.

        Raises:
            UserError: some part of some process would have no photo.
        """
        if batch_size < world.size * accumulate:
            raise UserError(
                f"optimise.batch_size is {batch_size}, too few photos for {world.size} processes with "
                f"optimise.accumulate {accumulate} parts each",
                allowed=f"{world.size * accumulate} or more",
            )
        self.length, self.seed = length, seed
        self.batch_size, self.accumulate = batch_size, accumulate
        self.first_step, self.steps = first_step, steps
        self.world = world

    def __iter__(self) -> Iterator[list[Key]]:
        stream = iter(
            TrainSampler(
                self.length,
                seed=self.seed,
                start=self.first_step * self.batch_size,
                stop=self.steps * self.batch_size,
            )
        )
        for _ in range(self.first_step, self.steps):
            update = [next(stream) for _ in range(self.batch_size)]
            own = update[self.world.rank :: self.world.size]
            for part in range(self.accumulate):
                yield own[part :: self.accumulate]

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate

    def keys_of_step(self, step: int) -> list[Key]:
        """What this process sees in update `step`."""
        start = step * self.batch_size
        stream = TrainSampler(self.length, seed=self.seed, start=start, stop=start + self.batch_size)
        return list(stream)[self.world.rank :: self.world.size]


class _Told(Dataset[Sample | UserError]):
    """Samples, or the UserError that one met: raised in a data worker, it would come as a traceback's text."""

    def __init__(self, samples: Dataset[Sample]) -> None:
        self.samples = samples

    def __getitem__(self, key: Key) -> Sample | UserError:
        try:
            return self.samples[key]
        except UserError as error:
            return error


def load_batches(
    dataset: Dataset[Sample], sampler: UpdateSampler, *, workers: int, device: str
) -> Iterator[Sample]:
    """Batches of `sampler`'s keys, collated; the same ones for any number of workers.

    Raises:
        UserError: of a sample, also where a data worker met it.
    """
    # a loader draws a number at its start: from a generator of its own, or a resumed run's dropout would differ
    loader = DataLoader(
        _Told(dataset),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate_told,
        pin_memory=device.startswith("cuda"),
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _collate_told(samples: Sequence[Sample | UserError]) -> Sample | UserError:
    right = [sample for sample in samples if not isinstance(sample, UserError)]
    wrong = [sample for sample in samples if isinstance(sample, UserError)]
    return wrong[0] if wrong else collate(right)


def collate(samples: Sequence[Sample]) -> Sample:
    """(uint8 [N, 3, H, W], channels-last in memory as the samples are; the others, such as labels, stacked)."""
    images, *others = zip(*samples, strict=True)
    # `default_collate` stacks into the memory that a worker shares with the trainer
    pixels = default_collate([image.movedim(0, 2) for image in images]).movedim(3, 1)
    return pixels, *(default_collate(list(each)) for each in others)
