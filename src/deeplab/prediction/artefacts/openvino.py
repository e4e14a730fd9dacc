"""An exported .xml with its .bin in OpenVINO (extra `openvino`)."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from deeplab.errors import require
from deeplab.prediction.artefacts.apart import Apart, Opened, open_openvino_network
from deeplab.prediction.artefacts.description import Artefact, described
from deeplab.prediction.runtimes.openvino import EXTRA
from deeplab.system.reading import foreign, plain_file


def open_openvino(path: Path, *, apart: bool = False, accurate: bool = True) -> Artefact:
    """See `deeplab.prediction.artefacts.open_artefact`.

    Args:
        path: of the .xml.
        apart: whether in a process of its own, with limits.
        accurate: False leaves the precision of the arithmetic to OpenVINO, which takes bfloat16 where the processor
            has it; not apart.
    """
    threads, weights = torch.get_num_threads(), path.with_suffix(".bin")
    if weights.exists():
        # which OpenVINO would wait for, were it a pipe
        with foreign(weights), plain_file(weights):
            pass
    opened: Apart | Opened
    if apart:
        opened = Apart("OpenVINO", path, extra=EXTRA, threads=threads)
    else:
        runtime = require("openvino", extra=EXTRA)
        with foreign(path, "OpenVINO cannot read it", fix="export it again"):
            opened = open_openvino_network(runtime, os.fspath(path), threads, accurate=accurate)
    return Artefact(described(opened.text, path), opened.run)
