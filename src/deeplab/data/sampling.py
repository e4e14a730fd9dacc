"""The order of training samples: an endless stream that can be cut, shared and resumed anywhere.

The reference repeats the data for ever and batches across epochs (fact 5.3); so does this, but every epoch
is a full shuffle, where the reference's buffer of 100 hardly mixes (fact 9.10).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from deeplab.errors import UserError


class TrainSampler(Sampler[tuple[int, int]]):
    """Keys (index, epoch) for `dataset[index, epoch]`; the order depends on the seed and the length only.

    Key n of the whole stream belongs to rank n modulo `world_size`. So the first K keys of every rank are
    together the first K * world_size keys of a single process, and a resume needs just `start`.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int = 0,
        start: int = 0,
        stop: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Describe a piece of the stream.

        Args:
            length: samples in the data set.
            seed: of the shuffles.
            start: keys of the whole stream (all ranks) already used.
            stop: the key of the whole stream to end before, say steps * global batch size; None is never.
            rank: of this process.
            world_size: number of processes.

        Raises:
            UserError: the data set is empty, or the rank is not in 0..world_size-1.
        """
        if length < 1 or not 0 <= rank < world_size:
            raise UserError(
                f"cannot sample {length} photos for rank {rank} of {world_size}",
                allowed="at least 1 photo, and ranks from 0 to one below their number",
            )
        self.length = length
        self.seed = seed
        self.start = start
        self.stop = stop
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position = self.start + self.rank
        epoch, order = -1, np.empty(0, dtype=np.int64)
        while self.stop is None or position < self.stop:
            if position // self.length != epoch:
                epoch = position // self.length
                order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
            yield int(order[position % self.length]), epoch
            position += self.world_size

    def __len__(self) -> int:
        """Keys that this rank yields; TypeError where the stream never ends, as for any endless iterable."""
        if self.stop is None:
            raise TypeError("an endless sampler has no length; give it a stop")
        return max(0, -(-(self.stop - self.start - self.rank) // self.world_size))
