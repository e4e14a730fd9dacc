"""An exported .xml with its .bin in OpenVINO (extra `openvino`)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import torch

from deeplab.errors import UserError, require
from deeplab.prediction.artefacts.description import KEY, Artefact, described
from deeplab.prediction.runtimes.openvino import EXTRA
from deeplab.system.reading import foreign, plain_file


def open_openvino(path: Path, *, accurate: bool = True) -> Artefact:
    """See `deeplab.prediction.artefacts.open_artefact`.

    Args:
        path: of the .xml.
        accurate: False leaves the precision of the arithmetic to OpenVINO, which takes bfloat16 where the processor
            has it.
    """
    runtime = require("openvino", extra=EXTRA)
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    if accurate:
        settings["EXECUTION_MODE_HINT"] = "ACCURACY"
    core, weights = runtime.Core(), path.with_suffix(".bin")
    if weights.exists():
        # which OpenVINO would wait for, were it a pipe
        with foreign(weights), plain_file(weights):
            pass
    try:
        network = core.read_model(os.fspath(path))
    except Exception as error:
        raise UserError(f"OpenVINO cannot read it ({type(error).__name__})", file=path) from error
    text = network.get_rt_info([KEY]).astype(str) if network.has_rt_info([KEY]) else None
    description = described(text, path)
    with foreign(path, "OpenVINO cannot compile it", fix="export it again"):
        compiled = core.compile_model(network, "CPU", settings)
    names, own = description.output.names, threading.local()

    def run(photos: np.ndarray) -> list[np.ndarray]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        results = own.request.infer([np.ascontiguousarray(photos)], share_outputs=False)
        return [results[name] for name in names]

    return Artefact(description, run)
