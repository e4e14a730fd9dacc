"""Every family to every target: the table of docs/export.md.

    python benchmarks/exports.py [--models animals street v1_largefov ...] [--to onnx openvino ...] [--size 257]

Models are embedded ones by name, or presets, whose random weights try the arithmetic alone. A target whose
extra is not installed is a row that says so; `make exports` runs this in an environment for each group of targets.
Logits are timed in turns with those of PyTorch as `deeplab predict` has it, so that the ratio holds where something
else runs; rows in which that kept the processors busy are marked.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from harness.machine import machine
from harness.rounds import children_seconds, compare, take_turns
from harness.worker import measure

from deeplab.errors import UserError
from deeplab.export.gate import GateError, drawn_photo
from deeplab.export.run import TARGETS, export_model
from deeplab.model.checkpoint import EMBEDDED, load
from deeplab.model.network import DeepLab
from deeplab.prediction.artefacts import open_artefact
from deeplab.prediction.fold import for_inference
from deeplab.presets import preset

COLUMNS = (
    "model", "target", "sizes", "equal labels, worst", "difference to float64, worst", "limit", "MB", "s to export",
    "ms", "ms of PyTorch", "times faster",
)  # fmt: skip
PYTORCH = "PyTorch"
# of turns, in which both ways run three times or more
SECONDS = 4.0
# one of each backbone family that no embedded model has, and of each kind of head
FAMILIES = (
    "mobilenetv3_small_cityscapes_trainfine",
    "edgetpu_deeplab_slim",
    "v1_largefov",
    "v2_resnet101_msc",
    "xception71_dpc_cityscapes_trainfine",
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
    about = machine()
    print(
        f"{about['processor']} ({', '.join(about['features'])}), {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; logits of {options.size} x {options.size}, medians of interleaved rounds\n"
    )
    print("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|")
    for name in options.models:
        model = load(name) if name in EMBEDDED else DeepLab(preset(name)).eval()
        model.eight_bit = False
        for to in options.to:
            cells = row(model, to, options.size)
            print(
                f"| {' | '.join([name, to, *cells, *['-'] * (len(COLUMNS) - 2 - len(cells))])} |", flush=True
            )


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
        network = for_inference(model, device=torch.device("cpu"))
        images = torch.from_numpy(photo).permute(0, 3, 1, 2)
        ways = (Way(PYTORCH, lambda: network(images)), Way(to, lambda: artefact.run(photo)))
        with torch.inference_mode():
            for way in ways:
                way.call()
            turns = compare(take_turns(ways, seconds=SECONDS), PYTORCH)
    figures = [f"{parity['agreement']:.6f}", f"{parity['error']:.1e}", f"{parity['limit']:.1e}"]
    times = [f"{1000 * turns.seconds[name]:.0f}" for name in (to, PYTORCH)]
    faster = f"{turns.faster[to]:.2f}x +-{turns.spread[to]:.0%}{', busy' * turns.noisy}"
    return [about, *figures, *last, *times, faster]


class Way(NamedTuple):
    """What takes turns, see `harness.rounds.Timed`."""

    name: str
    call: Callable[[], object]

    def time(self, seconds: float) -> dict[str, float]:
        """Of one call, wall and processor; LiteRT and ExecuTorch compute in a process of their own, which counts."""
        before = children_seconds()
        sample = measure(self.call, seconds=seconds)
        sample["processor"] += (children_seconds() - before) / sample["calls"]
        return sample


if __name__ == "__main__":
    main()
