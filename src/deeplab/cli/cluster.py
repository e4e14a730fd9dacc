"""What `deeplab predict --cluster` does: many photos, on many processes or machines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from deeplab.errors import MOST_PROCESSES, UserError, refuse_outside

if TYPE_CHECKING:
    from deeplab.prediction.labelling import Labelling

DEAD_LETTERS = "dead-letters.jsonl"


@Parameter(name="*")
@dataclass(frozen=True)
class ClusterOptions:
    """Many photos, labelled by many processes.

    Parameters
    ----------
    cluster:
        ray for all processors of this machine, ray://HOST:PORT for a Ray cluster (extra ray). Label maps come in tars
        of --shard-size photos, with a line for each photo; the same command goes on with a job that was killed.
    shard_size:
        Photos a shard.
    workers:
        Processes on this machine. Default: one a processor.
    """

    cluster: str | None = None
    shard_size: int = 1000
    workers: int | None = None


def predict_on_cluster(
    photos: Sequence[Path], output: Path, *, model: str, how: Labelling, options: ClusterOptions
) -> int:
    """Label photos on a cluster; the exit code, 1 if a photo ends among the dead letters.

    Raises:
        UserError: no such cluster, or see `Job.planned`.
    """
    import json

    from deeplab.cli.tables import photo_progress
    from deeplab.cluster.ray_engine import run_on_ray
    from deeplab.cluster.shards import Job
    from deeplab.system.writing import whole_file

    address = options.cluster or ""
    if address != "ray" and not address.startswith("ray://"):
        raise UserError(f"--cluster {address}", allowed="ray, ray://HOST:PORT")
    if options.workers is not None:
        refuse_outside(1, MOST_PROCESSES, __workers=options.workers)
    about = {"model": model, "how": repr(how)}
    places = [photo.absolute() for photo in photos]
    job = Job.planned(places, output.absolute(), shard_size=options.shard_size, about=about)
    with photo_progress(job.count, "shards") as progress:
        for _ in range(job.count - len(job.open_shards())):
            progress.advance()
        run_on_ray(
            job,
            address,
            model=model,
            how=how,
            workers=options.workers,
            on_shard=lambda number: progress.advance(),
        )
    dead = total = 0
    with whole_file(output / DEAD_LETTERS) as file:
        for line in job.lines():
            total += 1
            if "error" in line:
                dead += 1
                file.write(f"{json.dumps(line)}\n".encode())
    job.finish()
    print(f"{total - dead} photos labelled: {output}/labels-*.tar, a line for each in labels-*.jsonl")
    if dead:
        print(f"{dead} photos failed, see {output / DEAD_LETTERS}", file=sys.stderr)
    return 1 if dead else 0
