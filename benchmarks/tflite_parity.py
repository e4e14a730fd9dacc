"""How close imported TensorFlow Lite models come to their own runtime: `python benchmarks/tflite_parity.py`.

For each published file and each arithmetic it can be run in, one row a photo: the largest |logit difference|
(where the file's runtime gives logits), the share of equal labels, and the mean share over the photos.
Expected outputs are the golden vectors `published_*.npz`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from deeplab import DeepLab
from deeplab.importers import import_weights

SHARED = Path(__file__).resolve().parents[2] / "shared"
# weights file -> golden vectors
PUBLISHED = {
    "deeplabv3_257_mv_gpu.tflite": "published_voc_mnv2_dm05_os8_257_float.npz",
    "deeplabv3_mnv2_pascal_quant.tflite": "published_voc_mnv2_os16_513_uint8.npz",
    "deeplabv3_mnv2_ade20k_int8.tflite": "published_ade32_mnv2_v3plus_512_int8.npz",
    "deeplabv3_mnv2_ade20k_uint8.tflite": "published_ade32_mnv2_v3plus_512_uint8.npz",
}


class Parity(NamedTuple):
    """One photo: largest |logit difference| (None if the runtime gave labels only), share of equal labels."""

    photo: str
    logits: float | None
    labels: float


def measure(model: DeepLab, golden: Path) -> list[Parity]:
    """Run `model` on the photos of the file `golden` and compare."""
    rows = []
    with np.load(golden) as data:
        for key in data.files:
            photo, _, kind = key.rpartition(".")
            if kind == "input":
                logits = _logits(model, data[key])
                expected = f"{photo}.logits_every8"
                worst = float(np.abs(logits[::8, ::8] - data[expected]).max()) if expected in data else None
                rows.append(Parity(photo, worst, float((logits.argmax(2) == data[f"{photo}.labels"]).mean())))
    return rows


def _logits(model: DeepLab, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        logits = model(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    return logits[0].permute(1, 2, 0).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, default=SHARED / "assets", help="folder that holds weights/")
    parser.add_argument("--golden", type=Path, default=SHARED / "golden", help="folder of golden vectors")
    arguments = parser.parse_args()
    table = Table(
        "file",
        "arithmetic",
        "photo",
        "max |logit difference|",
        "labels equal, %",
        title="TensorFlow Lite parity",
    )
    for weights, golden in PUBLISHED.items():
        model = import_weights(arguments.assets / "weights" / weights).model
        for eight_bit in (True, False) if model.eight_bit else (False,):
            model.eight_bit = eight_bit
            head = (weights, "8-bit" if eight_bit else "float")
            rows = measure(model, arguments.golden / golden)
            for row in rows:
                worst = "-" if row.logits is None else f"{row.logits:.1e}"
                table.add_row(*head, row.photo, worst, f"{100 * row.labels:.3f}")
            mean = np.mean([row.labels for row in rows])
            table.add_row(*head, "mean", "", f"{100 * mean:.3f}", end_section=True)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
