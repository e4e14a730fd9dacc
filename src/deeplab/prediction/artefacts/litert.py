"""An exported .tflite in LiteRT's interpreter (extra `litert`)."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from pathlib import Path

import numpy as np
import torch

from deeplab.errors import UserError, require
from deeplab.prediction.artefacts.description import KEY, Artefact, described
from deeplab.system.reading import foreign, read_bytes, read_member

EXTRA = "litert"


def open_litert(path: Path) -> Artefact:
    """See `deeplab.prediction.artefacts.open_artefact`."""
    with foreign(path, fix="export it again"):
        text = _text(read_bytes(path))
    description = described(text, path)
    runtime = require("ai_edge_litert.interpreter", extra=EXTRA)
    try:
        interpreter = runtime.Interpreter(model_path=os.fspath(path), num_threads=torch.get_num_threads())
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        told = str(error).strip().splitlines()[-1:] or [""]
        raise UserError(f"LiteRT cannot run it ({told[0][:200]})", file=path) from error
    # outputs keep their order under other names
    (photo,) = interpreter.get_input_details()
    results = [each["index"] for each in interpreter.get_output_details()]
    one_at_a_time = threading.Lock()

    def run(photos: np.ndarray) -> list[np.ndarray]:
        with one_at_a_time:
            interpreter.set_tensor(photo["index"], np.ascontiguousarray(photos))
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in results]

    return Artefact(description, run)


def _text(content: bytes) -> str | None:
    """The description, which lies behind the model as TensorFlow Lite's own metadata does: in a zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as files:
            return read_member(files, f"{KEY}.json", size=len(content)).decode()
    except (zipfile.BadZipFile, KeyError):
        return None
