"""What `deeplab predict --cluster` and `deeplab eval --cluster` do: many photos, on many processes or machines."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from deeplab.cluster.inputs import Part
    from deeplab.cluster.worker import ToMeasure
    from deeplab.evaluation.report.scores import Scores
    from deeplab.prediction.labelling import Labelling

DEAD_LETTERS = "dead-letters.jsonl"
# small enough for every process to have some
MEASURED_TOGETHER = 16
# of photos that kill their process: of an evaluation none may be left out
TRIES = 3


@Parameter(name="*")
@dataclass(frozen=True)
class Cluster:
    """Many photos, on many processes.

    Parameters
    ----------
    cluster:
        ray for all processors of this machine, ray://HOST:PORT for a Ray cluster (extra ray).
    workers:
        Processes on this machine. Default: one a processor.
    """

    cluster: str | None = None
    workers: int | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class ClusterOptions(Cluster):
    """Many photos, labelled by many processes.

    Parameters
    ----------
    cluster:
        ray for all processors of this machine, ray://HOST:PORT for a Ray cluster (extra ray). Inputs may be .txt lists,
        .tar and .parquet shards, and lie in stores (s3://), as may the output. The same command goes on with a job
        that was killed.
    workers:
        Processes on this machine. Default: one a processor.
    shard_size:
        Photos that go into one tar; those of a shard stay together.
    label_maps:
        tar: label maps in a tar for each shard, with a line for each photo. png: in a folder for each.
    """

    shard_size: int = 1000
    label_maps: Literal["tar", "png"] = "tar"


def predict_on_cluster(
    sources: Sequence[str], output: Path, *, model: str, how: Labelling, options: ClusterOptions
) -> int:
    """Label photos on a cluster; the exit code, 1 if a photo ends among the dead letters.

    Raises:
        UserError: no such photos, cluster or model, or see `Job.planned`.
    """
    import json
    import os

    from deeplab.cli.tables import photo_progress
    from deeplab.cluster.inputs import find_inputs, parts_of
    from deeplab.cluster.ray_engine import ray_cluster, ray_for
    from deeplab.cluster.shards import Job
    from deeplab.cluster.worker import ToLabel, label_part
    from deeplab.prediction.artefacts import model_version, open_predictor
    from deeplab.system.stores import address_of

    ray_for(options.cluster or "", workers=options.workers, device=how.device)
    target = address_of(output) or os.path.abspath(output)
    parts = parts_of(find_inputs(sources, beside=target), size=options.shard_size)
    # what is wrong with the model is seen here, and not by workers that Ray brings back without end
    open_predictor(model, how, device="cpu")
    with ray_cluster(options.cluster or "", workers=options.workers, device=how.device) as cluster:
        about = {"model": model, "version": model_version(model), "how": repr(how)}
        job = Job.planned(parts, target, about=about, label_maps=options.label_maps)
        still_open = job.open_parts(len(parts))
        before = sorted(set(range(len(parts))).difference(still_open))
        total, dead = 0, []
        for line in job.lines(before):
            total += 1
            dead += [line] * ("error" in line)
        under_way: set[int] = set()

        def waiting() -> Iterator[tuple[int, Part]]:
            for number in still_open:
                under_way.add(number)
                yield number, parts[number]

        with photo_progress(len(parts), "shards") as progress:
            for _ in before:
                progress.advance()
            try:
                for each in cluster.run(label_part, ToLabel(job, model, how), waiting()):
                    under_way.discard(each.number)
                    total += each.photos
                    dead += each.dead
                    progress.advance()
            except KeyboardInterrupt:
                job.stop(under_way)
                raise
    job.target.write(DEAD_LETTERS, "".join(f"{json.dumps(line)}\n" for line in dead).encode())
    job.finish()
    print(
        f"{total - len(dead)} photos labelled: {target}/labels-*{'.tar' if options.label_maps == 'tar' else ''}, "
        "a line for each in labels-*.jsonl"
    )
    if dead:
        print(f"{len(dead)} photos failed, see {target}/{DEAD_LETTERS}", file=sys.stderr)
    return 1 if dead else 0


def measured_on_cluster(work: ToMeasure, options: Cluster) -> Scores:
    """All measures over the whole data set, as one process would have them.

    Raises:
        UserError: no such cluster, a photo or mask that is wrong, or photos that kill their process.
    """
    from deeplab.cli.tables import photo_progress
    from deeplab.cluster.ray_engine import ray_cluster
    from deeplab.cluster.worker import measure_part

    count = len(work.dataset)
    starts = range(0, count, MEASURED_TOGETHER)
    waiting = ((start, min(start + MEASURED_TOGETHER, count)) for start in starts)
    scores = work.scores
    with (
        ray_cluster(options.cluster or "", workers=options.workers, device=work.how.device) as cluster,
        photo_progress(len(starts), "evaluating") as progress,
    ):
        for part in cluster.run(measure_part, work, waiting, tries=TRIES):
            scores = scores + part
            progress.advance()
    return scores
