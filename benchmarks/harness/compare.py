"""One case from start to end: workers, equality, turns, memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.process import Variant, VariantFailedError, Worker
from harness.results import case_result
from harness.rounds import compare, take_turns

# result of a variant, result of the reference, name of the variant: what to print, and whether it may be timed
Check = Callable[[np.ndarray, np.ndarray, str], tuple[str, bool]]


class Compared(NamedTuple):
    """A case's entry in the results file, and the versions that its workers had."""

    result: dict[str, Any]
    versions: dict[str, str]


def compare_variants(
    title: str,
    variants: Sequence[Variant],
    *,
    check: Check,
    threads: int,
    seconds: float,
    say: Callable[[str], None] = print,
) -> Compared:
    """Build, check and time all variants; those that fail are named in the result, and the others go on.

    Args:
        variants: the first is the reference.
        check: compares outputs before anything is timed; what does not agree is not timed.
        seconds: how long turns are taken.

    Raises:
        VariantFailedError: the reference fails.
    """
    failed: dict[str, str] = {}
    agreement: dict[str, str] = {}
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            expected = None
            for variant in variants:
                # one after the other: they would disturb each other, and memory peaks would add up
                worker = Worker(variant, threads=threads, log=folder / f"{len(workers) + len(failed)}.log")
                workers.append(worker)
                try:
                    worker.wait()
                    output = worker.output(folder)
                except VariantFailedError as error:
                    if expected is None:
                        raise
                    failed[variant.name] = str(error)
                else:
                    expected = output if expected is None else expected
                    told, agrees = check(output, expected, variant.name)
                    agreement[variant.name] = told
                    if not agrees:
                        failed[variant.name] = f"not timed: {told}"
                    say(f"  {variant.name}: {told}")
                if variant.name in failed:
                    say(f"  {variant.name}: {failed[variant.name]}")
                    workers.pop().close()
            reference = variants[0].name
            comparison = compare(take_turns(workers, seconds=seconds), reference)
            memory = {worker.name: worker.peak_memory_mb() for worker in workers}
            versions = {name: version for worker in workers for name, version in worker.versions.items()}
        finally:
            for worker in workers:
                worker.close()
    result = case_result(
        title, comparison, reference=reference, memory=memory, agreement=agreement, failed=failed
    )
    return Compared(result, versions)
