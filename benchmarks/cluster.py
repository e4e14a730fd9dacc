"""Photos on a Ray cluster of this machine: a job whose worker and driver are killed, and what Ray costs.

    python benchmarks/cluster.py PHOTOS [--count 199] [--workers 2] [--shard-size 20] [--ratio 200 5000]

The job: so many photos, three broken ones, and one that kills the process that opens it. While it runs, one worker is
killed, then the driver; the same command is given again. Counted are the lines of the index, the dead letters, photos
that were opened more than once, and labels that differ from those of `deeplab predict`. `--ratio` times both commands
on so many photos. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from harness.machine import machine
from PIL import Image

KILLER = "kills-its-process"
# goes into every process by way of PYTHONPATH
PATCH = """
import os, signal
opened = os.open
def noted(path, *rest, **options):
    name = os.path.basename(os.fspath(path))
    if name.endswith(".jpg"):
        handle = opened(os.environ["NOTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{os.getpid()} {name}\\n".encode())
        os.close(handle)
        if "kills-its-process" in name:
            os.kill(os.getpid(), signal.SIGKILL)
    return opened(path, *rest, **options)
os.open = noted
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="a folder of .jpg files, taken again and again")
    parser.add_argument("--count", type=int, default=199)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard-size", type=int, default=20)
    parser.add_argument("--ratio", type=int, nargs="*", default=[])
    parser.add_argument("--model", default="animals")
    options = parser.parse_args()
    about = machine()
    print(f"{about['processor']}, {about['cores']} cores, {options.workers} workers\n")
    with tempfile.TemporaryDirectory() as scratch:
        print(killed(Path(scratch) / "killed", options), flush=True)
        if options.ratio:
            print("\n| photos | predict, s | --cluster ray, s | ratio |\n| --- | --- | --- | --- |")
        for count in options.ratio:
            folder = filled(Path(scratch) / str(count) / "photos", options.photos, count)
            seconds = []
            for words in (["--no-overlay"], ray(options)):
                began = time.perf_counter()
                subprocess.run(
                    command(folder, Path(scratch) / str(count) / f"out{len(words)}", options, words),
                    check=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                seconds.append(time.perf_counter() - began)
            print(
                f"| {count} | {seconds[0]:.1f} | {seconds[1]:.1f} | {seconds[1] / seconds[0]:.2f} |",
                flush=True,
            )


def ray(options: argparse.Namespace) -> list[object]:
    return ["--cluster", "ray", "--workers", options.workers, "--shard-size", options.shard_size]


def command(photos: Path, output: Path, options: argparse.Namespace, words: list[object]) -> list[str]:
    base = [sys.executable, "-m", "deeplab", "predict", photos, "-m", options.model, "-o", output]
    return list(map(str, [*base, *words]))


def filled(folder: Path, source: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number, photo in enumerate(islice(cycle(sorted(source.glob("*.jpg"))), count)):
        (folder / f"{number:06}.jpg").write_bytes(photo.read_bytes())
    return folder


def killed(folder: Path, options: argparse.Namespace) -> str:
    """A list of counts."""
    photos, output, noted = (
        filled(folder / "photos", options.photos, options.count),
        folder / "out",
        folder / "noted",
    )
    for name, place in zip(("first", "middle", "last"), (0, options.count // 2, options.count), strict=True):
        (photos / f"{place:06}-{name}.jpg").write_text("no photo")
    (photos / f"{options.count // 3:06}-{KILLER}.jpg").write_bytes((photos / "000000.jpg").read_bytes())
    patch = folder / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(PATCH)
    path = os.pathsep.join([str(patch), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "NOTED": str(noted)}
    words = command(photos, output, options, ray(options))
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    began = time.perf_counter()
    driver = subprocess.Popen(words, start_new_session=True, **quiet)
    wait_for(lambda: len(opened(noted)) > options.count // 4)
    os.kill(workers(noted)[0], signal.SIGKILL)
    wait_for(lambda: len(opened(noted)) > options.count // 2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not workers(noted))
    before = len(opened(noted))
    code = subprocess.run(words, **quiet).returncode
    seconds = time.perf_counter() - began
    lines = [
        json.loads(line)
        for each in sorted(output.glob("labels-*.jsonl"))
        for line in each.read_text().splitlines()
    ]
    dead = [json.loads(line) for line in (output / "dead-letters.jsonl").read_text().splitlines()]
    # what cannot be read is looked at again by the process that opened it
    opened_by = Counter(name for _, name in opened(noted))
    again = {name: times for name, times in opened_by.items() if times > 1}
    reasons = "".join(f"\n  - {Path(each['photo']).name}: {each['error'][:100]}" for each in dead)
    return (
        f"- {options.count + 4} photos; worker killed, driver killed with {before} photos opened; {seconds:.0f} s in "
        f"all, exit code {code}\n"
        f"- {len(lines)} lines, {len({line['photo'] for line in lines})} photos, {len(dead)} dead letters:{reasons}\n"
        f"- opened more than once: {again}\n"
        f"- labels that differ from `deeplab predict`'s: {differing(photos, lines, output, options)}"
    )


def opened(noted: Path) -> set[tuple[str, ...]]:
    """Processes, and the photos that they opened."""
    return {tuple(line.split()) for line in noted.read_text().splitlines()} if noted.exists() else set()


def workers(noted: Path) -> list[int]:
    """Processes of Ray that label for this job, and for no other on the machine."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            ours = f"NOTED={noted}".encode() in (each.parent / "environ").read_bytes()
            if ours and each.read_bytes().startswith(b"ray::label_part"):
                found.append(int(each.parent.name))
        except OSError:
            continue
    return found


def wait_for(true: object, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        if time.monotonic() > end:
            sys.exit("nothing happens")
        time.sleep(0.05)


def differing(photos: Path, lines: list[dict[str, str]], output: Path, options: argparse.Namespace) -> int:
    """Photos whose label maps are others."""
    plain = output.with_name("plain")
    few = [Path(line["photo"]) for line in lines if "labels" in line][:: max(1, len(lines) // 50)]
    words = [sys.executable, "-m", "deeplab", "predict", *few, "-m", options.model, "-o", plain]
    subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    count = 0
    for line in lines:
        if Path(line["photo"]) in few:
            with tarfile.open(output / line["tar"]) as tar:
                packed = np.array(Image.open(BytesIO(tar.extractfile(line["labels"]).read())))
            count += not np.array_equal(
                packed, np.array(Image.open(plain / f"{Path(line['photo']).stem}_labels.png"))
            )
    return count


if __name__ == "__main__":
    main()
