"""What an engineer writes who has the model but not this package's command: OpenVINO with argmax in the graph, Pillow.

    python -m harness.peer_command PROGRAM.xml OUTPUT PHOTO...

Writes NAME_labels.png, indices with a palette, and NAME_overlay.png for every photo.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import openvino
from PIL import Image

OPACITY = 0.5


def main() -> None:
    """See the module."""
    program, output, *photos = sys.argv[1:]
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": int(os.environ["OMP_NUM_THREADS"]),
    }
    request = openvino.Core().compile_model(program, "CPU", settings).create_infer_request()
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for path in map(Path, photos):
        photo = Image.open(path).convert("RGB")
        labels = Image.fromarray(request.infer([np.asarray(photo)[None]])[0][0])
        labels.putpalette(palette.tobytes())
        labels.save(folder / f"{path.stem}_labels.png")
        Image.blend(photo, labels.convert("RGB"), OPACITY).save(folder / f"{path.stem}_overlay.png")


if __name__ == "__main__":
    main()
