"""Work in parts on a Ray cluster (Apache-2.0, extra `ray`): it places workers, brings back those that die, and adds
machines where it may; it knows the GPUs.

What a photo that kills its process costs, and what a run that was killed has done, is `shards`' to know: Ray repeats a
part whose process died, and a part repeated goes on where it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from deeplab.errors import MOST_PROCESSES, UserError, refuse_outside, require
from deeplab.system.device import pick_device

# of parts that wait, for each process: none of these ever waits, and a million parts are not handed over at once
AHEAD = 2
WITHOUT_END = -1
# an address without a port is waited for until time is up
HERE, THERE = "ray", re.compile(r"ray://\S+:\d+")


def ray_for(address: str, *, workers: int | None, device: str) -> Any:
    """The module, where these go together; see `ray_cluster`.

    Raises:
        UserError: they do not, no such device, or the extra is not installed.
    """
    if address != HERE and THERE.fullmatch(address) is None:
        raise UserError(f"--cluster {address}", allowed="ray, ray://HOST:PORT")
    if workers is not None:
        refuse_outside(1, MOST_PROCESSES, __workers=workers)
        if address != HERE:
            raise UserError(
                "--workers would change nothing", allowed=f"with --cluster {HERE}", fix="leave it out"
            )
    if device.startswith("cuda:"):
        raise UserError(f"--device {device}", allowed="cuda, of which Ray gives each process its own")
    if device != "cuda":
        # GPUs may be elsewhere
        pick_device(device)
    return require("ray", extra="ray")


@contextmanager
def ray_cluster(address: str, *, workers: int | None, device: str) -> Iterator[RayCluster]:
    """A cluster that answers; its processes that work for this one end with the block.

    Args:
        address: ray for a cluster of this machine alone, or ray://HOST:PORT.
        workers: processes of a cluster of this machine; None takes all processors.
        device: of each process; those on cuda have a GPU each.

    Raises:
        UserError: see `ray_for`; the cluster is not there, or has no GPU and will have none.
    """
    ray = ray_for(address, workers=workers, device=device)
    # before the processes start: torch's threads wait for work without sleeping otherwise
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address == HERE:
        options |= {"num_cpus": workers, "include_dashboard": False, "address": "local"}
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, ImportError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the cluster {address} does not answer ({error})",
            fix="ray status says what is wrong; clusters that ask for a token want RAY_AUTH_MODE=token here, too",
        ) from error
    try:
        kind = "GPU" if device == "cuda" else "CPU"
        if kind == "GPU" and address == HERE and not ray.cluster_resources().get(kind):
            raise UserError(
                f"--device {device}: Ray finds no GPU on this machine",
                fix="leave --device away, or name a cluster that has some",
            )
        yield RayCluster(ray, kind)
    finally:
        ray.shutdown()


class RayCluster(NamedTuple):
    """The module, and what each of its processes has one of: "CPU", or beside that "GPU"."""

    ray: Any
    kind: str

    def run(
        self,
        work: Callable[..., Any],
        common: Any,
        parts: Iterable[tuple[Any, ...]],
        *,
        tries: int | None = None,
    ) -> Iterator[Any]:
        """What `work` returns of each part, as they are done.

        Args:
            work: a function of a module that all machines have; called with `common` and what a part holds.
            common: sent to each machine once, where it can only be read.
            parts: asked for as they are needed.
            tries: of a part whose process dies; None is as many as it takes.

        Raises:
            UserError: what `work` raises, or a part is out of tries.
        """
        ray = self.ray
        retries = WITHOUT_END if tries is None else tries - 1
        remote = ray.remote(num_cpus=1, num_gpus=int(self.kind == "GPU"), max_retries=retries)(work)
        shared, waiting, running = ray.put(common), iter(parts), list[Any]()
        while True:
            # a cluster grows while parts wait, and shrinks
            most = max(1, AHEAD * int(ray.cluster_resources().get(self.kind, 1)))
            while len(running) < most and (part := next(waiting, None)) is not None:
                running.append(remote.remote(shared, *part))
            if not running:
                return
            finished, running = ray.wait(running, num_returns=1)
            yield _outcome(ray, finished[0])


def _outcome(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None
    except ray.exceptions.RayError as error:
        raise UserError(
            f"a process died, again and again, with photos of one part ({type(error).__name__})",
            fix="without --cluster the photo is seen at which it does",
        ) from error
