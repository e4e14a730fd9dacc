"""An exported .pte in ExecuTorch's Python runtime (extra `executorch`)."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch

from deeplab.errors import UserError, require
from deeplab.prediction.artefacts.description import Artefact, described

EXTRA = "executorch"
# a method of the file that returns the description
METHOD = "deeplab_json"


def open_executorch(path: Path) -> Artefact:
    """See `deeplab.prediction.artefacts.open_artefact`."""
    runtime = require("executorch.runtime", extra=EXTRA)
    try:
        program = runtime.Runtime.get().load_program(path)
        text = program.load_method(METHOD).execute([])[0] if METHOD in program.method_names else None
        network = program.load_method("forward")
    except RuntimeError as error:
        raise UserError(f"ExecuTorch cannot read it ({type(error).__name__})", file=path) from error
    description = described(text, path)
    one_at_a_time = threading.Lock()

    def run(photos: np.ndarray) -> list[np.ndarray]:
        with one_at_a_time:
            results = network.execute([torch.from_numpy(np.ascontiguousarray(photos))])
            # copied, as the next call writes over them
            return [result.numpy().copy() for result in results]

    return Artefact(description, run)
