"""An exported .pt2 in PyTorch itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from deeplab.errors import UserError
from deeplab.prediction.artefacts.description import KEY, Artefact, described


def open_torch_export(path: Path) -> Artefact:
    """See `deeplab.prediction.artefacts.open_artefact`."""
    extra = {KEY: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:
        raise UserError(f"PyTorch cannot read it ({type(error).__name__})", file=path) from error
    text = extra[KEY]
    description = described(text.decode() if isinstance(text, bytes) else text, path)
    # its guards also hold what strides in memory were alike in the example, and refuse photos at random; what is right
    # at which sizes, the gate says
    network = program.module(check_guards=False)

    def run(photos: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [result.numpy() for result in network(torch.from_numpy(np.ascontiguousarray(photos)))]

    return Artefact(description, run)
