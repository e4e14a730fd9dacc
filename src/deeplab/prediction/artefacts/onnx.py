"""An exported .onnx in ONNX Runtime (extra `onnx`)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from deeplab.errors import UserError, require
from deeplab.prediction.artefacts.description import KEY, PHOTO, Artefact, described
from deeplab.prediction.runtimes.onnxruntime import EXTRA


def open_onnx(path: Path) -> Artefact:
    """See `deeplab.prediction.artefacts.open_artefact`."""
    runtime = require("onnxruntime", extra=EXTRA)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"ONNX Runtime cannot read it ({type(error).__name__})", file=path) from error
    description = described(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    names = list(description.output.names)

    def run(photos: np.ndarray) -> list[np.ndarray]:
        return session.run(names, {PHOTO: photos})

    return Artefact(description, run)
