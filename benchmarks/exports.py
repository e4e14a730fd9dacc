"""Every family to every target: the table of docs/export.md.

    python benchmarks/exports.py [--models animals street v1_largefov ...] [--to onnx openvino ...] [--size 257]

Models are embedded ones by name, or presets, whose random weights try the arithmetic alone. A target whose
extra is not installed is a row that says so; `make exports` runs this in an environment for each group of targets.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from deeplab.errors import UserError
from deeplab.export.gate import GateError, drawn_photo
from deeplab.export.run import TARGETS, export_model
from deeplab.model.checkpoint import EMBEDDED, load
from deeplab.model.network import DeepLab
from deeplab.prediction.artefacts import open_artefact
from deeplab.prediction.segmenter import Segmenter
from deeplab.presets import preset

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
    print("| model | target | sizes | equal labels | margin | limit | MB | s to export | ms | ms torch |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    photo = drawn_photo((options.size, options.size), 3, seed=0)
    for name in options.models:
        model = load(name) if name in EMBEDDED else DeepLab(preset(name)).eval()
        segmenter = Segmenter(model)
        alone = milliseconds(lambda segmenter=segmenter: segmenter(photo))
        for to in options.to:
            print(f"| {name} | {to} | {row(model, to, options.size)} {alone:.0f} |", flush=True)


def row(model: DeepLab, to: str, side: int) -> str:
    """The columns of one export, or why there is none."""
    target, square = TARGETS[to], (side, side)
    with tempfile.TemporaryDirectory() as place:
        try:
            made = export_model(
                model,
                to,
                Path(place) / "out",
                name="model",
                sizes=[square] if target.sizing == "named" else [],
                largest=square if target.sizing == "up to" else None,
            )
        except UserError as error:
            return f"no: {error} | | | | | | |"
        except GateError as error:
            return f"refused by the gate: {error} | | | | | | |"
        artefact = open_artefact(made.path)
        photo = drawn_photo(square, model.config.backbone.in_channels, seed=0)[None]
        taken = milliseconds(lambda: artefact.run(photo))
    parity = made.description.parity or {}
    return (
        f"{made.description.input.said()} | {parity['agreement']:.6f} | {parity['margin']:.1e} | "
        f"{parity['limit']:.1e} | {made.megabytes:.1f} | {made.seconds:.0f} | {taken:.0f} |"
    )


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
