"""The wheel for Linux on x86-64: built, checked with auditwheel, and tried where no compiler is.

    make wheel
    .venv-wheel/bin/python benchmarks/wheel.py [--rounds 7] [--photos PHOTO ...]

The package is built by way of its source distribution, and auditwheel gives the wheel the oldest Linux that its
libraries run on; it then lies in dist/. It is installed into an empty environment whose PATH has nothing else, and each
kernel has to come from the wheel. Photos are labelled with its libraries of every level that this processor has, with
plain PyTorch code, and with kernels compiled here; labels are compared, then times are taken, one variant after another
in every round. Exit code 1 if a kernel is not the wheel's, or labels differ by more than those of nearly equal classes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from harness.machine import machine
from harness.results import markdown
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from deeplab.native.sources import KERNELS, LEVELS  # noqa: E402

PLAIN, COMPILED = "plain", "compile"
NAMES = {PLAIN: "plain PyTorch code", COMPILED: "compiled here"}
# plain code rounds sums in another order
LEAST_EQUAL = 0.9999
WAYS = {
    "animals": (),
    "animals, CRF": ("--crf", "v2-resnet101"),
    "street": ("--model", "street"),
}
# labels every photo once for each line that it is sent, and answers with the seconds
WORKER = """
import sys, time
from deeplab import Segmenter
segmenter = Segmenter(sys.argv[1])
for line in sys.stdin:
    began = time.perf_counter()
    for photo in sys.argv[2:]:
        segmenter(photo)
    print(time.perf_counter() - began, flush=True)
"""


def main() -> None:
    """Prints Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--photos", nargs="+", type=Path, help="default: three that scikit-image brings")
    options = parser.parse_args()
    photos = [str(path.resolve()) for path in options.photos or demo_photos()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, place = built(folder), Installed(folder / "environment", folder / "cache")
        print(f"{described()}; {len(photos)} photos; {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB\n")
        print(first_use(place, wheel, photos, folder))
        best, *others = levels_shipped(place)
        variants = (best, *others, COMPILED, PLAIN)
        print(labels_compared(place, variants, photos, folder))
        print(times(place, variants, photos, rounds=options.rounds))


def demo_photos() -> list[Path]:
    """Those of `make demo`."""
    import skimage

    data = Path(skimage.__file__).parent / "data"
    return [data / name for name in ("astronaut.png", "chelsea.png", "coffee.png")]


def described() -> str:
    """This machine in one line."""
    about = machine()
    return (
        f"{about['processor']} ({', '.join(about['features'])}), {about['cores']} cores, "
        f"{about['system']}, Python {about['python']}"
    )


def built(folder: Path) -> Path:
    """The wheel, in dist/, with the tag that auditwheel finds.

    Raises:
        SystemExit: a tool failed; the end of its output is shown.
    """
    call("build", "--outdir", folder / "built", ROOT, DEEPLAB_SHIP_KERNELS="1")
    call("auditwheel", "repair", "--wheel-dir", folder / "wheel", *(folder / "built").glob("*.whl"))
    (found,) = (folder / "wheel").glob("*.whl")
    (ROOT / "dist").mkdir(exist_ok=True)
    return Path(shutil.copy2(found, ROOT / "dist"))


def call(*words: object, **variables: str) -> None:
    """A tool of this environment, quietly.

    Raises:
        SystemExit: it failed; the end of its output is shown.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", *map(str, words)]
    ran = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | variables | {"PATH": path}, cwd=ROOT
    )
    if ran.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{(ran.stdout + ran.stderr)[-4000:]}")


class Installed:
    """An environment with nothing but what pip puts there, and programs that see nothing but it.

    Attributes:
        folder: of the environment.
        cache: where libraries compiled here are kept; nothing is there at first.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    def variables(self, kernels: str = "") -> dict[str, str]:
        """Environment variables; a compiler is in sight only where kernels are to be compiled."""
        own = str(self.folder / "bin")
        path = f"{own}{os.pathsep}{os.environ['PATH']}" if kernels == COMPILED else own
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CXX")}
        return kept | {"PATH": path, "DEEPLAB_CACHE": str(self.cache), "DEEPLAB_KERNELS": kernels}

    def run(self, *words: object, kernels: str = "") -> tuple[float, str]:
        """(seconds, output) of a program of the environment.

        Raises:
            SystemExit: it failed.
        """
        began = time.perf_counter()
        command = [str(self.folder / "bin" / str(words[0])), *map(str, words[1:])]
        ran = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder.parent, env=self.variables(kernels)
        )
        if ran.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{(ran.stdout + ran.stderr)[-4000:]}")
        return time.perf_counter() - began, ran.stdout


def first_use(place: Installed, wheel: Path, photos: list[str], folder: Path) -> str:
    """From nothing to labels on disk, step by step."""
    began = time.perf_counter()
    venv.create(place.folder, with_pip=True)
    creating = time.perf_counter() - began
    # the versions of constraints.txt: a CPU build of torch where one is at hand
    words = ("python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
    installing, _ = place.run(*words)
    if found := [name for name in ("c++", "g++", "clang++", "cc") if (place.folder / "bin" / name).exists()]:
        sys.exit(f"the environment that should have no compiler has {found}")
    first, _ = place.run("deeplab", "predict", *photos, "-o", folder / "first")
    again, _ = place.run("deeplab", "predict", *photos, "-o", folder / "again")
    compiling, _ = place.run("deeplab", "predict", *photos, "-o", folder / "compiling", kernels=COMPILED)
    torch = json.loads(place.run("deeplab", "env", "--json")[1])["versions"]["torch"]
    gigabytes = sum(each.stat().st_size for each in place.folder.rglob("*.*") if each.is_file()) / 1e9
    rows = [
        ["an empty environment", f"{creating:.1f}"],
        [f"`pip install` of the wheel with torch {torch}: {gigabytes:.1f} GB", f"{installing:.1f}"],
        ["`deeplab predict`, first run", f"{first:.1f}"],
        ["`pip install` to labels on disk", f"{installing + first:.1f}"],
        ["`deeplab predict`, second run", f"{again:.1f}"],
        ["`deeplab predict`, first run where kernels are compiled first", f"{compiling:.1f}"],
    ]
    return markdown(["first use", "seconds"], rows)


def levels_shipped(place: Installed) -> list[str]:
    """Levels that this processor has, best first, after a look whether each kernel comes from the wheel.

    Raises:
        SystemExit: one does not.
    """
    kernels = json.loads(place.run("deeplab", "env", "--json")[1])["kernels"]
    shipped = {name: state for name, state in kernels.items() if state.startswith("shipped, for ")}
    if len(shipped) < len(KERNELS) or len(set(shipped.values())) > 1:
        sys.exit(f"`deeplab env` says of the kernels of the wheel: {kernels}")
    best = next(iter(shipped.values())).removeprefix("shipped, for ")
    print(f"`deeplab env`: {len(shipped)} kernels, all {shipped.popitem()[1]}\n")
    return list(LEVELS)[list(LEVELS).index(best) :]


def labels_compared(place: Installed, variants: Sequence[str], photos: list[str], folder: Path) -> str:
    """Equal labels of every way of labelling, each variant beside the first.

    Raises:
        SystemExit: too few are equal.
    """
    rows = []
    for name, options in WAYS.items():
        maps = {}
        for variant in variants:
            out = folder / "labels" / name / variant
            place.run("deeplab", "predict", *photos, *options, "-o", out, kernels=variant)
            maps[variant] = {path.name: label_map(path) for path in sorted(out.glob("*_labels.png"))}
        first, *others = maps.values()
        pixels = sum(each.size for each in first.values())
        unlike = [sum(int((first[name] != each[name]).sum()) for name in first) for each in others]
        if pixels == 0 or any(count > (1 - LEAST_EQUAL) * pixels for count in unlike):
            sys.exit(f"{name}: {dict(zip(variants[1:], unlike, strict=True))} of {pixels} labels differ")
        rows.append([name, f"{pixels:,}", *(str(count) for count in unlike)])
    titles = [f"unlike {variants[0]}: {NAMES.get(each, each)}" for each in variants[1:]]
    return markdown(["labels of", "pixels", *titles], rows)


def label_map(path: Path) -> np.ndarray:
    """uint8 [H, W]."""
    with Image.open(path) as image:
        return np.array(image)


def times(place: Installed, variants: Sequence[str], photos: list[str], *, rounds: int) -> str:
    """Medians over rounds in which all variants take turns; ratios are taken within a round."""
    table = []
    for model in ("animals", "street"):
        workers = {
            variant: subprocess.Popen(
                [place.folder / "bin" / "python", "-c", WORKER, model, *photos],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=place.variables(variant),
            )
            for variant in variants
        }
        try:
            # the first turn loads libraries and fills caches
            took = [{name: one_turn(each) for name, each in workers.items()} for _ in range(rounds + 1)][1:]
        finally:
            for each in workers.values():
                each.communicate()
        for variant in variants:
            seconds = statistics.median(each[variant] for each in took) / len(photos)
            faster = [each[PLAIN] / each[variant] for each in took]
            spread = f"{statistics.median(faster):.2f}x ({min(faster):.2f}..{max(faster):.2f})"
            origin = NAMES.get(variant, f"shipped, for {variant}")
            table.append([model, origin, f"{seconds * 1000:.0f}", spread])
    return markdown(["model", "kernels", "ms a photo", "times faster than plain"], table)


def one_turn(worker: subprocess.Popen[str]) -> float:
    """Seconds that a worker takes for all photos."""
    assert worker.stdin and worker.stdout
    worker.stdin.write("\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


if __name__ == "__main__":
    main()
