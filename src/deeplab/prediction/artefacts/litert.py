"""An exported .tflite in LiteRT's interpreter (extra `litert`)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch

from deeplab.prediction.artefacts.apart import KEY, Apart
from deeplab.prediction.artefacts.description import Artefact, described
from deeplab.system.reading import foreign, read_bytes, read_member

EXTRA = "litert"


def open_litert(path: Path) -> Artefact:
    """See `deeplab.prediction.artefacts.open_artefact`."""
    with foreign(path, fix="export it again"):
        text = _text(read_bytes(path))
    description = described(text, path)
    return Artefact(description, Apart("LiteRT", path, extra=EXTRA, threads=torch.get_num_threads()).run)


def _text(content: bytes) -> str | None:
    """The description, which lies behind the model as TensorFlow Lite's own metadata does: in a zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as files:
            return read_member(files, f"{KEY}.json", size=len(content)).decode()
    except (zipfile.BadZipFile, KeyError):
        return None
