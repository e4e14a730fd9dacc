"""An exported .pte in ExecuTorch's Python runtime (extra `executorch`)."""

from __future__ import annotations

from pathlib import Path

import torch

from deeplab.prediction.artefacts.apart import Apart
from deeplab.prediction.artefacts.description import Artefact, described

EXTRA = "executorch"


def open_executorch(path: Path) -> Artefact:
    """See `deeplab.prediction.artefacts.open_artefact`."""
    apart = Apart("ExecuTorch", path, extra=EXTRA, threads=torch.get_num_threads())
    return Artefact(described(apart.text, path), apart.run)
