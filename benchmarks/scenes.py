"""A made-up scene labelled window by window: seconds a megapixel, peak memory at two sizes, tags, killed and resumed.

    python benchmarks/scenes.py PHOTO [--sides 5000 20000] [--kill-side 5000] [--seams shared] [--model animals]

The scene repeats a photo, each time turned or mirrored otherwise, as a GeoTIFF with a rim without data. The command
labels it in a process of its own, whose peak memory is the system's account; the tags of what it wrote are read by
tifffile, which shares no code with what wrote them, if it is installed. A second run of the scene of `--kill-side` is
killed again and again until it is through: its raster must equal that of the run that was not. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from harness.machine import machine
from PIL import Image

RIM = 300
BAND = 512


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photo", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[5000, 20000])
    parser.add_argument("--kill-side", type=int, default=5000)
    parser.add_argument("--kill-after", type=float, default=20.0, help="seconds")
    parser.add_argument("--seams", default="blend")
    parser.add_argument("--model", default="animals")
    options = parser.parse_args()
    about = machine()
    print(f"{about['processor']}, {about['cores']} cores, seams {options.seams}\n")
    words = ["-m", options.model, "--seams", options.seams]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(
            "| scene | seconds | seconds a megapixel | peak memory | labels, MB |\n| --- | --- | --- | --- | --- |"
        )
        for side in options.sides:
            scene = made(folder / f"{side}.tif", options.photo, side)
            seconds, peak = run([scene, "-o", folder / "out", *words])
            written = folder / "out" / f"{side}_labels.tif"
            print(
                f"| {side} x {side} | {seconds:.0f} | {seconds / (side * side / 1e6):.2f} | {peak / 2**30:.2f} GB | "
                f"{written.stat().st_size / 1e6:.1f} |",
                flush=True,
            )
        print(f"\ntags of the last: {tags(written)}\n")
        print(killed(folder, options, words))


def made(path: Path, photo: Path, side: int) -> Path:
    """A GeoTIFF of this side, written band by band."""
    with Image.open(photo) as held:
        tile = np.array(held.convert("RGB"))
    length = min(tile.shape[:2])
    tile = tile[:length, :length]
    turned = [np.rot90(each, turns) for each in (tile, tile[:, ::-1]) for turns in range(4)]
    count = -(-side // length)
    choice = np.random.default_rng(0).integers(0, len(turned), (count, count))
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "nodata": 0,
        "crs": "EPSG:32633", "transform": rasterio.Affine(0.3, 0, 500_000, 0, -0.3, 5_000_000),
        "tiled": True, "blockxsize": BAND, "blockysize": BAND, "compress": "deflate", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        row: tuple[int, np.ndarray] | None = None
        for top in range(0, side, BAND):
            lines = []
            for line in range(top, min(top + BAND, side)):
                if row is None or row[0] != line // length:
                    row = (
                        line // length,
                        np.concatenate([turned[each] for each in choice[line // length]], 1)[:, :side],
                    )
                lines.append(row[1][line % length])
            band = np.stack(lines).clip(1)
            # a slanted rim without data
            for number in range(len(band)):
                band[number, : RIM * (top + number) // side] = 0
            file.write(np.moveaxis(band, -1, 0), window=((top, top + len(band)), (0, side)))
    return path


def command(words: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", "deeplab", "predict", *map(str, words)]


def run(words: Sequence[object]) -> tuple[float, int]:
    """Seconds, and bytes that the process took at most."""
    began = time.perf_counter()
    process = subprocess.Popen(command(words), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command(words))}")
    return time.perf_counter() - began, usage.ru_maxrss * 1024


def tags(path: Path) -> str:
    """What another reader says of the raster."""
    try:
        import tifffile
    except ImportError:
        return "tifffile is not installed"
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        found = page.geotiff_tags
        about = {
            "tile": [page.tilelength, page.tilewidth],
            "compression": page.compression.name,
            "colours": page.colormap is not None,
            "nodata": page.nodata,
            "system": int(found["ProjectedCSTypeGeoKey"]),
            "scale": found["ModelPixelScale"][:2],
            "corner": found["ModelTiepoint"][3:5],
        }
    return json.dumps(about)


def killed(folder: Path, options: argparse.Namespace, words: Sequence[object]) -> str:
    """A sentence: how often it was killed, and whether the raster is that of a run in one piece."""
    scene = made(folder / "killed.tif", options.photo, options.kill_side)
    whole, pieces = folder / "whole", folder / "pieces"
    straight, _ = run([scene, "-o", whole, *words])
    times, began = 0, time.perf_counter()
    while True:
        process = subprocess.Popen(
            command([scene, "-o", pieces, *words]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            if process.wait(options.kill_after):
                sys.exit("failed when it was resumed")
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            times += 1
            if (pieces / "killed_labels.tif").exists() and not equal(whole, pieces):
                sys.exit("a raster stands there before it is whole")
    seconds = time.perf_counter() - began
    left = [path.name for path in pieces.iterdir() if path.name.startswith(".")]
    return (
        f"{options.kill_side} x {options.kill_side}, killed {times} times, every {options.kill_after:g} s: "
        f"{seconds:.0f} s in all against {straight:.0f} s in one piece; equal: {equal(whole, pieces)}; "
        f"left over: {left}"
    )


def equal(one: Path, other: Path) -> bool:
    """Whether two runs wrote the same raster."""
    name = "killed_labels.tif"
    with rasterio.open(one / name) as first, rasterio.open(other / name) as second:
        return bool((first.read(1) == second.read(1)).all()) and first.profile == second.profile


if __name__ == "__main__":
    main()
