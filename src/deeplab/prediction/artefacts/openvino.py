"""An exported .xml with its .bin in OpenVINO (extra `openvino`)."""

from __future__ import annotations

from pathlib import Path

import torch

from deeplab.prediction.artefacts.apart import Apart
from deeplab.prediction.artefacts.description import Artefact, described
from deeplab.prediction.runtimes.openvino import EXTRA
from deeplab.system.reading import foreign, plain_file


def open_openvino(path: Path, *, accurate: bool = True) -> Artefact:
    """See `deeplab.prediction.artefacts.open_artefact`.

    Args:
        path: of the .xml.
        accurate: False leaves the precision of the arithmetic to OpenVINO, which takes bfloat16 where the processor
            has it.
    """
    weights = path.with_suffix(".bin")
    if weights.exists():
        # which OpenVINO would wait for, were it a pipe
        with foreign(weights), plain_file(weights):
            pass
    runtime = "OpenVINO" if accurate else "OpenVINO as it likes"
    apart = Apart(runtime, path, extra=EXTRA, threads=torch.get_num_threads())
    return Artefact(described(apart.text, path), apart.run)
