"""How long a user waits before anything happens: the command's help, the imports, a look at data.

    python benchmarks/startup.py

Every program is a new process; they take turns, and medians over the rounds are printed, with the difference to the
program that each is held against taken within a round. The first round is not counted: it fills the disk's cache and
writes byte code.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

PROGRAMS: dict[str, tuple[str, ...]] = {
    "python": ("-c", ""),
    "deeplab --help": ("-m", "deeplab", "--help"),
    "deeplab predict --help": ("-m", "deeplab", "predict", "--help"),
    "import deeplab": ("-c", "import deeplab"),
    "import torch": ("-c", "import torch"),
    "from deeplab import Segmenter": ("-c", "from deeplab import Segmenter"),
    "what data check imports": (
        "-c",
        "import deeplab.cli.data_check, deeplab.doctor.run, deeplab.doctor.report",
    ),
}
AGAINST = {
    "deeplab --help": "python",
    "deeplab predict --help": "python",
    "import deeplab": "python",
    "from deeplab import Segmenter": "import torch",
    "what data check imports": "import torch",
}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    rounds = [one_round() for _ in range(parser.parse_args().rounds + 1)][1:]
    print(f"{'':32} {'seconds':>8} {'processor':>10}  more than")
    for name in PROGRAMS:
        wall, processor = (statistics.median(each[name][kind] for each in rounds) for kind in (0, 1))
        other = AGAINST.get(name)
        more = statistics.median(each[name][0] - each[other][0] for each in rounds) if other else None
        against = "" if more is None else f"{other} by {more:+.3f}"
        print(f"{name:32} {wall:8.3f} {processor:10.3f}  {against}")


def one_round() -> dict[str, tuple[float, float]]:
    """(wall, processor) seconds of each program."""
    return {name: took(arguments) for name, arguments in PROGRAMS.items()}


def took(arguments: tuple[str, ...]) -> tuple[float, float]:
    """(wall, processor) seconds of a new Python with `arguments`.

    Raises:
        CalledProcessError: the program failed.
    """
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, os.times()
    children = (after.children_user + after.children_system) - (before.children_user + before.children_system)
    return wall, children


if __name__ == "__main__":
    main()
