"""From photos to label maps, beside what peers' libraries and plain runtimes take: the tables of docs/speed.md.

    python benchmarks/bench.py [--case PATTERN] [--full] [--threads 2] [--seconds 20]

Results go to --output as JSON, case by case, and are printed as tables (--tables only prints them). Weights are made
up, the same on all sides; what is compared is said in `harness.cases`. Needs what constraints-bench.txt lists.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from harness import cases, curves, enlarging, results
from harness.compare import Compared, compare_variants
from harness.process import BENCHMARKS, environment

# made-up weights amplify rounding: what bfloat16 and int8 do to labels is measured with trained ones, see precision.py
LEAST_EQUAL = {"float32": 0.9995, "bf16": 0.0, "int8": 0.0}


def main() -> None:
    """See the module."""
    options = _options()
    if not options.tables:
        chosen = [case for case in every_case(full=options.full) if fnmatch.fnmatch(case.name, options.case)]
        if not chosen:
            names = ", ".join(case.name for case in every_case(full=options.full))
            raise SystemExit(f"no case is called {options.case!r}; there are: {names}")
        for case in chosen:
            if not (options.prepare and isinstance(case, enlarging.Enlarging)):
                measure(case, options)
    if not options.prepare:
        content = json.loads(options.output.read_text())
        print(results.tables(content))
        if options.full:
            print("curves:", *curves.save_curves(content, options.output.parent))


def every_case(*, full: bool) -> list[cases.Case | enlarging.Enlarging]:
    """The table's cases, or with `full` also those along the curves."""
    return [*cases.CASES, *enlarging.CASES, *(cases.CURVES if full else [])]


def measure(case: cases.Case | enlarging.Enlarging, options: argparse.Namespace) -> None:
    """One case into the results file."""
    print(f"{case.name}:", flush=True)
    threads = case.threads or options.threads
    if isinstance(case, enlarging.Enlarging):
        variants = enlarging.variants(case, peer_python=options.peer_python, python=options.python)
    else:
        folder = options.work / case.name
        prepare(case, folder, options)
        if options.prepare:
            return
        variants = cases.variants(case, folder, peer_python=options.peer_python, python=options.python)
    compared: Compared = compare_variants(
        case.title, variants, check=equal_labels, threads=threads, seconds=options.seconds
    )
    results.add(options.output, case.name, compared.result, compared.versions, threads=threads)
    print(results.case_table(compared.result), flush=True)


def prepare(
    case: cases.Case, folder: Path, options: argparse.Namespace, *, purpose: str = "inference"
) -> None:
    """Weights and programs, and our own engines' cache; in processes of their own."""
    about = [purpose, str(folder), *map(str, case[:5])]
    command = [options.peer_python, "-W", "ignore", "-m", "harness.preparation", *about]
    surroundings = os.environ | environment(options.threads)
    ran = subprocess.run(command, cwd=BENCHMARKS, env=surroundings, check=False)
    if ran.returncode:
        raise SystemExit(f"{case.name} could not be prepared, see above")


def equal_labels(found: np.ndarray, expected: np.ndarray, name: str) -> tuple[str, bool]:
    """Share of pixels with the reference's label, and whether that is enough for the variant's precision."""
    share = float((found == expected).mean()) if found.shape == expected.shape else 0.0
    tolerance = LEAST_EQUAL[results.precision_of(name)]
    classes = len(np.unique(expected))
    return f"{share:.4%} of labels equal ({classes} classes; at least {tolerance:.2%})", share >= tolerance


def parser_of(text: str, *, seconds: float) -> argparse.ArgumentParser:
    """The options that all comparisons have."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="*", help="names to measure, such as '*512x512'")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=seconds, help="of turns a case")
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    parser.add_argument("--work", type=Path, default=Path(".bench"), help="what is prepared is kept here")
    parser.add_argument("--prepare", action="store_true", help="only prepare")
    parser.add_argument("--python", default=sys.executable, help="interpreter of our environment")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of the peers'")
    return parser


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__, seconds=20)
    parser.add_argument("--full", action="store_true", help="also sides, classes, batches and threads")
    parser.add_argument("--tables", action="store_true", help="only print what was measured before")
    options = parser.parse_args()
    options.work = options.work.resolve()
    return options


if __name__ == "__main__":
    main()
