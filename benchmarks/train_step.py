"""A training step (forward, loss, backward, update) beside the peer's: the second table of docs/speed.md.

    python benchmarks/train_step.py [--case PATTERN] [--threads 2] [--seconds 60]

512x512, batch 4, the same weights on both sides; losses and gradients are compared before anything is timed. Results
go into the same file as those of bench.py.
"""

from __future__ import annotations

import argparse
import fnmatch
from pathlib import Path

import bench
import numpy as np
from harness import results
from harness.cases import PLAIN, Case
from harness.compare import compare_variants
from harness.process import Variant

from deeplab.processor import has_bfloat16

CASES = (
    Case("smp-v3plus-mobilenet_v2", 512, 512, batch=4),
    Case("smp-v3plus-resnet50", 512, 512, batch=4),
)
# relative, of the loss; and of the gradients, the mean difference as a share of their mean size. In bfloat16 those of
# made-up weights are mostly noise, the peer's own too: they are told, and decide nothing.
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
GRADIENT_TOLERANCE = {"float32": 3e-2, "bfloat16": float("inf")}
PRECISIONS = {PLAIN: "float32", "peer, eager, bf16": "bfloat16", "ours": "float32", "ours, bf16": "bfloat16"}


def main() -> None:
    """See the module."""
    options = bench.parser_of(__doc__, seconds=60).parse_args()
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
        check=same_step,
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


def same_step(found: np.ndarray, expected: np.ndarray, name: str) -> tuple[str, bool]:
    """How far loss and gradients are from the reference's, and whether that is near enough."""
    precision = PRECISIONS[name]
    if found.shape != expected.shape:
        return f"{len(found) - 1} gradients for {len(expected) - 1}", False
    loss = abs(found[0] - expected[0]) / abs(expected[0])
    gradient = np.abs(found[1:] - expected[1:]).mean() / np.abs(expected[1:]).mean()
    allowed = LOSS_TOLERANCE[precision], GRADIENT_TOLERANCE[precision]
    told = (
        f"loss {loss:.1e} off (at most {allowed[0]:.0e}), gradients {gradient:.1e} (at most {allowed[1]:.0e})"
    )
    return told, bool(loss <= allowed[0] and gradient <= allowed[1])


if __name__ == "__main__":
    main()
