"""An exported .onnx in ONNX Runtime (extra `onnx`)."""

from __future__ import annotations

from pathlib import Path

import torch

from deeplab.prediction.artefacts.apart import Apart
from deeplab.prediction.artefacts.description import Artefact, described
from deeplab.prediction.runtimes.onnxruntime import EXTRA
from deeplab.system.reading import foreign, plain_file


def open_onnx(path: Path) -> Artefact:
    """See `deeplab.prediction.artefacts.open_artefact`."""
    with foreign(path), plain_file(path):
        pass
    apart = Apart("ONNX Runtime", path, extra=EXTRA, threads=torch.get_num_threads())
    return Artefact(described(apart.text, path), apart.run)
