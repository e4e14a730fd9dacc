"""Shards on a Ray cluster (Apache-2.0, extra `ray`): it places workers, brings back those that die, and knows the GPUs.

What a photo that kills its process costs, and what a run that was killed has done, is `shards`' to know: Ray repeats a
shard whose process died as often as that takes, and a shard repeated goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from deeplab.cluster.shards import Job
from deeplab.cluster.worker import label_shard
from deeplab.errors import UserError, require
from deeplab.prediction.labelling import Labelling

# of shards that wait, for each processor: a worker never waits, and a million shards are not handed over at once
AHEAD = 2
WITHOUT_END = -1


def run_on_ray(
    job: Job,
    address: str,
    *,
    model: str,
    how: Labelling,
    workers: int | None,
    on_shard: Callable[[int], None] = lambda number: None,
) -> None:
    """Label the shards of a job that are open.

    Args:
        job: in a folder that all machines see by the same path.
        address: ray for a cluster of this machine alone, or ray://HOST:PORT.
        model, how: see `deeplab.cluster.worker.label_shard`.
        workers: processes of a cluster of this machine; None takes all processors.
        on_shard: called with each shard that is done.

    Raises:
        UserError: the extra is not installed, or the cluster is not there.
    """
    ray: Any = require("ray", extra="ray")
    # before the processes start: torch's threads wait for work without sleeping otherwise
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address == "ray":
        options |= {"num_cpus": workers, "include_dashboard": False, "address": "local"}
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the cluster {address} does not answer ({error})", fix="ray status says what is wrong"
        ) from error
    try:
        gpus = 1 if how.device.startswith("cuda") else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=WITHOUT_END)(label_shard)
        waiting = iter(job.open_shards())
        most = max(1, AHEAD * int(ray.cluster_resources().get("CPU", 1)))
        running: list[Any] = []
        while True:
            while len(running) < most and (number := next(waiting, None)) is not None:
                running.append(remote.remote(job, number, model, how))
            if not running:
                return
            finished, running = ray.wait(running, num_returns=1)
            on_shard(ray.get(finished[0]))
    finally:
        ray.shutdown()
