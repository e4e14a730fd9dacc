"""An exported .onnx in ONNX Runtime (extra `onnx`)."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from deeplab.errors import require
from deeplab.prediction.artefacts.apart import Apart, Opened, open_onnx_session
from deeplab.prediction.artefacts.description import Artefact, described
from deeplab.prediction.runtimes.onnxruntime import EXTRA
from deeplab.system.reading import foreign, plain_file


def open_onnx(path: Path, *, apart: bool = False) -> Artefact:
    """See `deeplab.prediction.artefacts.open_artefact`.

    Args:
        path: of the file.
        apart: whether in a process of its own, with limits.
    """
    threads = torch.get_num_threads()
    with foreign(path), plain_file(path):
        pass
    opened: Apart | Opened
    if apart:
        opened = Apart("ONNX Runtime", path, extra=EXTRA, threads=threads)
    else:
        runtime = require("onnxruntime", extra=EXTRA)
        with foreign(path, "ONNX Runtime cannot read it", fix="export it again"):
            opened = open_onnx_session(runtime, os.fspath(path), threads)
    return Artefact(described(opened.text, path), opened.run)
