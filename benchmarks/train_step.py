"""A training step (forward, loss, backward, update) beside the peer's: the second table of docs/speed.md.

    python benchmarks/train_step.py [--case PATTERN] [--threads 2] [--seconds 30]

512x512, batch 4, the same weights on both sides. Before anything is timed losses are compared, and gradients with those
of the peer's network in float64: ours may not be much farther from them than the peer's own. Results go into the same
file as those of bench.py.
"""

from __future__ import annotations

import argparse
import fnmatch
from functools import partial
from pathlib import Path

import bench
import numpy as np
from harness import results
from harness.cases import JUDGE, PLAIN, Case
from harness.compare import compare_variants
from harness.process import Variant

from deeplab.system.processor import has_bfloat16

CASES = (
    Case("smp-v3plus-mobilenet_v2", 512, 512, batch=4),
    Case("smp-v3plus-resnet50", 512, 512, batch=4),
)
# relative
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
# how many times as far from float64 as the peer's gradients in float32. In bfloat16 those of made-up weights are mostly
# noise, the peer's own too: they are told, and decide nothing.
GRADIENT_TOLERANCE = {"float32": 1.5, "bfloat16": float("inf")}
PRECISIONS = {PLAIN: "float32", "peer, eager, bf16": "bfloat16", "ours": "float32", "ours, bf16": "bfloat16"}


def main() -> None:
    """See the module."""
    options = bench.parser_of(__doc__, seconds=30).parse_args()
    options.work = options.work.resolve()
    for case in CASES:
        if fnmatch.fnmatch(case.name, options.case):
            measure(case, options)


def measure(case: Case, options: argparse.Namespace) -> None:
    """One case into the results file."""
    print(f"training step, {case.name}:", flush=True)
    folder = options.work / f"training-{case.name}"
    bench.prepare(case, folder, options, purpose="training")
    if options.prepare:
        return
    title = f"training step, {case.title}"
    compared = compare_variants(
        title,
        variants(case, folder, options),
        check=partial(same_step, judge=np.load(folder / JUDGE)),
        threads=options.threads,
        seconds=options.seconds,
    )
    results.add(
        options.output, f"training-{case.name}", compared.result, compared.versions, threads=options.threads
    )
    print(results.case_table(compared.result), flush=True)


def variants(case: Case, folder: Path, options: argparse.Namespace) -> list[Variant]:
    """The peer's step and ours, in float32 and, where the processor has it, in bfloat16."""
    made = []
    for name, precision in PRECISIONS.items():
        if precision == "bfloat16" and not has_bfloat16("cpu"):
            continue
        function = "peer" if name.startswith("peer") else "ours"
        python = options.peer_python if function == "peer" else options.python
        arguments = {"folder": str(folder), "case": case._asdict(), "precision": precision}
        made.append(Variant(name, "harness.training_variants", function, arguments, python))
    return made


def same_step(found: np.ndarray, expected: np.ndarray, name: str, *, judge: np.ndarray) -> tuple[str, bool]:
    """How far loss and gradients are from the judge's, and whether that is near enough.

    Args:
        found: of the variant `name`: the loss, then gradients.
        expected: of the peer in float32.
        judge: of the peer in float64.
    """
    if found.shape != judge.shape:
        return f"{len(found) - 1} gradients for {len(judge) - 1}", False
    precision = PRECISIONS[name]
    loss = abs(found[0] - judge[0]) / abs(judge[0])
    gradients, theirs = (
        np.abs(each[1:] - judge[1:]).mean() / np.abs(judge[1:]).mean() for each in (found, expected)
    )
    told = f"loss {loss:.1e} off float64 (at most {LOSS_TOLERANCE[precision]:.0e}), gradients {gradients:.1e}"
    if name != PLAIN:
        told += f" (the peer's in float32 {theirs:.1e})"
    near = gradients <= GRADIENT_TOLERANCE[precision] * theirs
    return told, bool(loss <= LOSS_TOLERANCE[precision] and near)


if __name__ == "__main__":
    main()
