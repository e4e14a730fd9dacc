"""Every command that writes, on disks that fail: python tests/disks.py [COMMAND ...] [--markdown] (Linux, as root).

Full at 64 KB, 200 KB and 1 MB, read-only, and a folder that is removed over and over while it is written. Each must end
in success or in one sentence, leave no half file behind, and never in a traceback. The exit status is 1 otherwise.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from support.servers import Client, noise, png
from support.training_runs import NAMES, make_squares, squares_recipe
from torch_sources import VainF

from deeplab.cli.app import main as deeplab

PATIENCE = 300.0
SERVE = "serve"
NONE: Mapping[str, str] = {}
DISKS = {
    "64 KB": "size=64k",
    "200 KB": "size=200k",
    "1 MB": "size=1m",
    "read-only": "size=1m,ro",
    "vanishing": "size=9m",
}


def commands(given: Path, out: Path) -> dict[str, list[object]]:
    """Words of each command, writing to `out`."""
    squares, run, names = given / "squares", given / "run", ["--classes", *NAMES]
    return {
        "predict": ["predict", given / "photos", "-m", run, "-o", out],
        "predict, a scene": ["predict", given / "scene.tif", "-m", run, "-o", out, "--polygons", "gpkg"],
        "predict, a clip": ["predict", given / "clip.mp4", "-m", run, "-o", out],
        "predict --cluster": ["predict", given / "photos", "-m", run, "-o", out, "--cluster", "ray", "--workers", 1],
        "train": ["train", given / "r.yaml", "-o", out, "--device", "cpu"],
        "eval": ["eval", squares, "-m", run, "-o", out, *names],
        "crf search": ["crf", "search", squares, "-m", run, "-o", out.with_suffix(".json"), *names],
        "data check": ["data", "check", squares, "-o", out, *names],
        "data convert": ["data", "convert", squares, out, *names],
        "data tfrecord": ["data", "tfrecord", squares, out, *names],
        "data webdataset": ["data", "webdataset", squares, out, *names],
        "import": ["import", given / "w.pth", "-o", out],
        "export": ["export", run, "--to", "torch-export", "-o", out],
        SERVE: ["serve", "-m", run, "--port", 0, "--workers", 2, "--drain", 0],
    }  # fmt: skip


NEEDS = {
    "predict, a scene": "rasterio",
    "predict, a clip": "av",
    "predict --cluster": "ray",
    "data webdataset": "webdataset",
    SERVE: "fastapi",
}


def prepare(given: Path) -> None:
    """A data set, a model, photos of noise, a scene, a clip and published weights."""
    squares = make_squares(given / "squares", side=40, photos=9)
    recipe = squares_recipe(squares, steps=2, batch_size=4, workers=0)
    (given / "r.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    told = run(["train", given / "r.yaml", "-o", given / "run", "--device", "cpu"], lambda *_: None)[1]
    assert (given / "run/model.safetensors").is_file(), told
    torch.save(VainF(mobile=True, plus=True, classes=2).state_dict(), given / "w.pth")
    noise = np.random.default_rng(0).integers(0, 256, (40, 200, 300, 3), dtype=np.uint8)
    (given / "photos").mkdir()
    for number in range(3):
        Image.fromarray(noise[number]).save(given / f"photos/{number}.png")
    if importlib.util.find_spec("rasterio"):
        import rasterio

        size = {"count": 3, "height": 200, "width": 300, "dtype": "uint8"}
        ground = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}
        with rasterio.open(given / "scene.tif", "w", driver="GTiff", **size, **ground) as file:
            file.write(noise[0].transpose(2, 0, 1))
    if importlib.util.find_spec("av"):
        import av

        with av.open(str(given / "clip.mp4"), "w") as container:
            video = container.add_stream("libx264", rate=5)
            video.height, video.width, video.pix_fmt = 200, 300, "yuv420p"
            for picture in noise:
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode())


def run(
    words: list[object], meanwhile: Callable[[int, int], None], surroundings: Mapping[str, str] = NONE
) -> tuple[int, str]:
    """The exit code of a command, 70 for a traceback, and what it said; a process of its own, forked warm.

    `meanwhile` is called over and over with that process's number and the descriptor of what it has said.
    """
    with tempfile.TemporaryFile() as told:
        child = os.fork()
        if child == 0:
            code, tempfile.tempdir = 70, None
            os.environ.update(surroundings)
            try:
                for stream in (1, 2):
                    os.dup2(told.fileno(), stream)
                sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0), write_through=True)
                sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", 0), write_through=True)
                deeplab([str(word) for word in words])
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        until = time.monotonic() + PATIENCE
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            meanwhile(child, told.fileno())
            time.sleep(0.002)
            if time.monotonic() > until:
                os.kill(child, 9)
        status = os.waitpid(child, 0)[1]
        told.seek(0)
        return os.waitstatus_to_exitcode(status), told.read().decode(errors="replace")


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """A file system of its own."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "deeplab-test", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def asked(client: Client) -> list[int]:
    """The status of each answer: a photo as it is and as a form, and what was counted."""
    photo = png(noise(700, 700))
    form = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n%s\r\n--b--\r\n' % photo
    header = {"content-type": "multipart/form-data; boundary=b"}
    return [
        client.segment(photo).status,
        client.ask("POST", "/v1/segment", form, header).status,
        client.get("/metrics").status,
    ]


def outcome(words: list[object], place: Path, disk: str) -> str:
    """success, refused, or what is wrong."""
    answers: list[int] = []

    def meanwhile(child: int, told: int) -> None:
        if disk == "vanishing":
            shutil.rmtree(place / "out", ignore_errors=True)
        ready = SERVE in words and not answers and os.pread(told, 9999, 0).partition(b"ready at http://")[2]
        if ready:
            answers.extend(asked(Client(int(ready.split()[0].rpartition(b":")[2]))))
            os.kill(child, signal.SIGTERM)

    with mounted(place, DISKS[disk]):
        # where the processes of a server count
        temporary = {}
        if SERVE in words:
            temporary["TMPDIR"] = str(place / "out")
            with suppress(OSError):
                (place / "out").mkdir()
        code, told = run(words, meanwhile, temporary)
        # a run's lock, and a job that goes on once there is space
        left = [] if disk == "vanishing" else [
            path.name for path in place.rglob(".*") if path.name not in (".lock", ".job") and ".work" not in path.name
        ]  # fmt: skip
    if code not in (0, 1, 2) or "Traceback" in told:
        return f"WRONG: exit status {code}: {told[-1500:]}"
    if set(answers) - {200}:
        return f"WRONG: answered {answers}"
    if left:
        return f"WRONG: left behind: {left}"
    return "success" if code == 0 else "refused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("commands", nargs="*", metavar="COMMAND")
    parser.add_argument("--markdown", action="store_true", help="print a table for docs/robustness.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as inside:
        given, place = Path(inside) / "given", Path(inside) / "disk"
        given.mkdir(), place.mkdir()
        prepare(given)
        row = "| " + "{} | " * (len(DISKS) + 1) if options.markdown else "{:20}" + "{:>12}" * len(DISKS)
        print(row.format("command", *DISKS).rstrip())
        if options.markdown:
            print(row.format(*["---"] * (len(DISKS) + 1)).rstrip())
        for name, words in commands(given, place / "out").items():
            if options.commands and name not in options.commands:
                continue
            if name in NEEDS and not importlib.util.find_spec(NEEDS[name]):
                continue
            found: dict[str, Any] = {disk: outcome(words, place, disk) for disk in DISKS}
            wrong += [f"{name}, {disk}: {each}" for disk, each in found.items() if each.startswith("WRONG")]
            cells = (each.partition(":")[0] for each in found.values())
            print(row.format(name, *cells).rstrip(), flush=True)
    for each in wrong:
        print(each)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
