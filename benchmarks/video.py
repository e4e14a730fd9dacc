"""A clip labelled picture by picture: pictures a second beside the network's own, peak memory, flicker by smoothing.

    python benchmarks/video.py PHOTO PHOTO [--seconds 30] [--size 480 640] [--model animals] [--noise 3] [-- OPTION ...]

The clip is made up: the first half wanders over one photo, the second shows the other one still, with a sensor's noise;
so pixels of the second half show the same all the time, and a label that changes there flickers. `deeplab predict` runs
in a process of its own, once for a tenth of the clip and once for all of it, whose peaks of memory should be equal. The
network's own limit is what it takes for the same pictures, one after another, and nothing else. Options behind `--` go
to each run, such as `--output-stride 16`. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from harness.machine import machine
from PIL import Image

RATE = 25
SOUND = 48_000
SMOOTHED = (0.0, 0.5, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs=2)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width, even")
    parser.add_argument("--model", default="animals")
    parser.add_argument("--noise", type=float, default=3.0, help="standard deviation of grey levels")
    parser.add_argument("--every", type=int, default=5, help="a run that labels every so manieth picture")
    parser.add_argument("options", nargs="*", help="to deeplab predict")
    options = parser.parse_args()
    about = machine()
    print(
        f"{about['processor']}, {about['cores']} cores; {options.seconds} s of {options.size[1]} x {options.size[0]}\n"
    )
    with tempfile.TemporaryDirectory() as scratch:
        clip = made(Path(scratch) / "clip.mp4", options)
        still = Path(scratch) / "still.mp4"
        made(still, options, moving=False)
        common = ["-m", options.model, *options.options]
        print("| run | pictures a second | the network alone | peak memory |\n| --- | --- | --- | --- |")
        runs = {
            f"{options.seconds / 10:g} s": ["--seconds", options.seconds / 10],
            f"{options.seconds} s": [],
            f"{options.seconds} s, --every {options.every}": ["--every", options.every],
        }
        for name, words in runs.items():
            entry, peak = run([clip, "-o", Path(scratch) / "out", *common, *words])
            print(
                f"| {name} | {entry['pictures a second']} | {entry['labelled a second by the network']} | "
                f"{peak / 2**30:.2f} GB |",
                flush=True,
            )
        print("\n| --smooth | still pixels whose label changes |\n| --- | --- |")
        for share in SMOOTHED:
            entry, _ = run([still, "-o", Path(scratch) / "out", *common, "--smooth", share])
            print(f"| {share:g} | {entry['flicker']:.3%} |", flush=True)
        print(
            f"\nthe overlay: {streams(Path(scratch) / 'out' / 'clip_overlay.mp4')}; the clip: {streams(clip)}"
        )


def made(path: Path, options: argparse.Namespace, *, moving: bool = True) -> Path:
    """A clip with sound: half of it moving, or all of it still."""
    height, width = options.size
    large, fixed = (
        np.array(Image.open(photo).convert("RGB").resize((round(1.3 * width), round(1.3 * height))))
        for photo in options.photos
    )
    random = np.random.default_rng(0)
    count = options.seconds * RATE
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE)
        video.height, video.width, video.pix_fmt = height, width, "yuv420p"
        video.options = {"crf": "18", "preset": "veryfast"}
        voice = container.add_stream("aac", rate=SOUND, layout="mono")
        for number in range(count):
            if moving and number < count // 2:
                share = number / (count // 2)
                top, left = round(share * 0.3 * height), round((1 - share) * 0.3 * width)
                pixels = large[top : top + height, left : left + width]
            else:
                pixels = fixed[:height, :width]
            noisy = pixels + random.normal(0, options.noise, pixels.shape)
            frame = av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        step = 1024
        for start in range(0, options.seconds * SOUND, step):
            wave = np.sin(2 * np.pi * 440 * np.arange(start, start + step) / SOUND).astype(np.float32) * 0.2
            part = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = SOUND, start, Fraction(1, SOUND)
            container.mux(voice.encode(part))
        container.mux(voice.encode())
        container.mux(video.encode())
    return path


def run(words: Sequence[object]) -> tuple[dict[str, object], int]:
    """The clip's line in the index, and bytes that the process took at most."""
    command = [sys.executable, "-m", "deeplab", "predict", *map(str, words)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed after {time.perf_counter() - began:.0f} s: {' '.join(command)}")
    index = Path(command[command.index("-o") + 1]) / "predictions.json"
    return json.loads(index.read_text())[0], usage.ru_maxrss * 1024


def streams(path: Path) -> str:
    """What is in a clip."""
    with av.open(str(path)) as container:
        packets = {each.type: 0 for each in container.streams}
        for packet in container.demux():
            packets[packet.stream.type] += packet.size > 0
        seconds = {
            each.type: float(each.duration * each.time_base) for each in container.streams if each.duration
        }
    return ", ".join(
        f"{count} packets of {kind} in {seconds.get(kind, 0):.2f} s" for kind, count in packets.items()
    )


if __name__ == "__main__":
    main()
