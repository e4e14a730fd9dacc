"""Several processes that train one model, started by `torchrun`; everything here is harmless in one.

    torchrun --nproc-per-node 4 -m deeplab train RECIPE -o DIR

Only the main process (rank 0) writes files and speaks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from deeplab.errors import UserError
from deeplab.system.device import pick_device

# longer than rank 0 takes to write a checkpoint while the others wait for it
TIMEOUT = timedelta(minutes=10)
Result = TypeVar("Result")


class World(NamedTuple):
    """This process among all: its rank, their number, and the device that it uses."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0


ALONE = World()


def is_main_process() -> bool:
    """Whether this process writes files and speaks; known before the processes have joined."""
    return int(os.environ.get("RANK", "0")) == 0


def own_device(name: str) -> str:
    """The device of this process: "auto" is cuda if there is one, else cpu; with torchrun, cuda is the process's own.

    Raises:
        UserError: torch does not know it, or this machine does not have it.
    """
    if name == "auto":
        name = pick_device("auto").type
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        # before the look at the device, which would take memory of the first GPU for every process
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return str(pick_device(name))


@contextmanager
def join_processes(device: str, *, timeout: timedelta = TIMEOUT) -> Iterator[World]:
    """Join the processes that torchrun started, if it did: NCCL on cuda, gloo elsewhere.

    Args:
        device: auto, cpu, cuda (then each process takes the GPU of its local rank), cuda:1, mps.
        timeout: how long to wait for a process that does not answer.

    Raises:
        UserError: no such device here, or another process died or did not answer in time; it names what to look at.
    """
    device = own_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(device=device)
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=timeout)
    world = World(dist.get_rank(), dist.get_world_size(), device)
    try:
        yield world
    except RuntimeError as error:
        if not _lost_contact(error):
            raise
        raise UserError(
            f"rank {world.rank} of {world.size} lost contact with another process, which failed or hangs: "
            f"its own message is above or in its log; fix what it names, then go on with --resume "
            f"({str(error).splitlines()[0][:200]})"
        ) from error
    # not after an error: the others may be gone, and taking leave of them would wait; nor with gloo, whose group
    # then ends with the last model that refers to it, and waits for processes that have ended
    if dist.get_backend() == "nccl":
        dist.destroy_process_group()


def sum_over_processes(value: torch.Tensor, world: World) -> torch.Tensor:
    """The sum of every process's `value`, the same in all; any shape, no gradient."""
    if world.size == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


def gather(value: Any, world: World) -> list[Any]:
    """Every process's `value`, by rank."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def from_main(make: Callable[[], Result], world: World) -> Result:
    """What `make` returns in the main process, in all; its UserError is raised in all."""
    if world.size == 1:
        return make()
    outcome: list[Any] = [None, None]
    if world.is_main:
        try:
            outcome[0] = make()
        except UserError as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _lost_contact(error: RuntimeError) -> bool:
    """Whether a collective failed; gloo has no error class of its own."""
    signs = ("gloo", "connection", "timed out", "nccl")
    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in signs)
