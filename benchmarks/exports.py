"""Every family to every target: the table of docs/export.md.

    python benchmarks/exports.py [--models animals street v1_largefov ...] [--to onnx openvino ...] [--size 257]

Models are embedded ones by name, or presets, whose random weights try the arithmetic alone. A target whose
extra is not installed is a row that says so; `make exports` runs this in an environment for each group of targets.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from harness.machine import machine

from deeplab.errors import UserError
from deeplab.export.gate import GateError, drawn_photo
from deeplab.export.run import TARGETS, export_model
from deeplab.model.checkpoint import EMBEDDED, load
from deeplab.model.network import DeepLab
from deeplab.prediction.artefacts import open_artefact
from deeplab.prediction.fold import folded
from deeplab.presets import preset

COLUMNS = (
    "model", "target", "sizes", "equal labels, worst", "difference to float64, worst", "limit", "MB", "s to export",
    "ms", "ms of PyTorch",
)  # fmt: skip
# of one core: what else runs then takes from what is timed
BUSY = 0.5
# one of each backbone family, the smallest of it, and of each kind of head
FAMILIES = (
    "mobilenetv3_small_cityscapes_trainfine",
    "edgetpu_deeplab_slim",
    "v1_largefov",
    "v2_resnet101_msc",
    "xception_41_imagenet",
    "xception71_dpc_cityscapes_trainfine",
    "resnet_v1_50_beta_imagenet",
)


def main() -> None:
    """Prints the table as Markdown, a row at a time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[*EMBEDDED, *FAMILIES])
    parser.add_argument("--to", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--size", type=int, default=257, help="side of the photo that is timed")
    options = parser.parse_args()
    about, load_now = machine(), os.getloadavg()[0]
    busy = f"; BUSY, at a load of {load_now:.1f}: take no times from here" if load_now > BUSY else ""
    print(
        f"{about['processor']}, {torch.get_num_threads()} threads, torch {torch.__version__}{busy}; logits of "
        f"{options.size} x {options.size}\n"
    )
    print("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|")
    photo = drawn_photo((options.size, options.size), 3, seed=0)
    for name in options.models:
        model = load(name) if name in EMBEDDED else DeepLab(preset(name)).eval()
        model.eight_bit = False
        network = folded(model).eval()
        images = torch.from_numpy(photo).permute(2, 0, 1)[None]
        alone = milliseconds(lambda network=network, images=images: network(images))
        for to in options.to:
            cells = row(model, to, options.size)
            cells += ["-"] * (len(COLUMNS) - 3 - len(cells)) + [f"{alone:.0f}"]
            print(f"| {' | '.join([name, to, *cells])} |", flush=True)


def row(model: DeepLab, to: str, side: int) -> list[str]:
    """The columns of one export from `sizes` on, or why there is none."""
    target, square = TARGETS[to], (side, side)
    with tempfile.TemporaryDirectory() as place:
        try:
            made = export_model(
                model,
                to,
                Path(place) / "out",
                name="model",
                output="logits",
                sizes=[square] if target.sizing == "named" else [],
                largest=square if target.sizing == "up to" else None,
            )
        except UserError as error:
            return [f"no: {error}"]
        except GateError as error:
            return [f"refused by the gate: {error}"]
        about, parity = made.description.input.said(), made.description.parity
        last = [f"{made.megabytes:.1f}", f"{made.seconds:.0f}"]
        if parity is None:
            return [f"{about}; not run", "-", "-", "-", *last]
        artefact = open_artefact(made.path)
        photo = drawn_photo(square, model.config.backbone.in_channels, seed=0)[None]
        taken = milliseconds(lambda: artefact.run(photo))
    figures = [f"{parity['agreement']:.6f}", f"{parity['error']:.1e}", f"{parity['limit']:.1e}"]
    return [about, *figures, *last, f"{taken:.0f}"]


def milliseconds(call: Callable[[], object]) -> float:
    """The fastest of five, after one."""
    call()
    times = []
    with torch.inference_mode():
        for _ in range(5):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return 1000 * min(times)


if __name__ == "__main__":
    main()
