"""PyTorch's own file, .pt2: for a PyTorch without this package. ONNX is smaller to carry and quicker to load."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from deeplab.export.program import traced
from deeplab.export.target import Job, Target, converting
from deeplab.prediction.artefacts.apart import KEY
from deeplab.prediction.artefacts.description import PHOTO, Description


def write_torch_export(job: Job, path: Path) -> Description:
    """Write the .pt2.

    Raises:
        UserError: torch cannot write this model.
    """
    with converting("PyTorch's own file", path, fix="--to onnx"):
        program = traced(job.program)
        (photo,) = (node for node in program.graph.nodes if node.name == PHOTO)
        # a map of one position is a special case in torch's programs, which they refuse
        least = [_least(program, side) for side in photo.meta["val"].shape[1:3]]
        taken = job.description.input.model_copy(update={"smallest": tuple(least)})
        description = job.description.model_copy(update={"input": taken})
        _save(program, description, path)
    return description


def _save(program: torch.export.ExportedProgram, description: Description, path: Path) -> None:
    # by way of memory: on a full disk torch's own writer ends the process
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={KEY: description.to_json()})
    path.write_bytes(content.getvalue())


def _least(program: torch.export.ExportedProgram, side: torch.SymInt) -> int:
    return int(program.range_constraints[side.node.expr].lower)


def stamp_torch_export(path: Path, description: Description) -> None:
    """Put the description into the file."""
    _save(torch.export.load(path), description, path)


EXAMPLE_SCRIPT = '''"""Labels of a photo with PyTorch: pip install torch numpy pillow; python example.py PHOTO"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

network = torch.export.load(Path(__file__).with_name("{file}")).module(check_guards=False)
photo = torch.from_numpy(np.array(Image.open(sys.argv[1]).convert("RGB"))[None])
result = network(photo)[{index}].detach().numpy()
{labels}
'''

TORCH_EXPORT = Target(
    name="torch-export",
    ending=".pt2",
    modules=(),
    extra="",
    precisions=("float32",),
    write=write_torch_export,
    stamp=stamp_torch_export,
    example=EXAMPLE_SCRIPT,
    runtimes=(),
    note="guards also compare strides in memory: load it with .module(check_guards=False), as example.py does; "
    "ONNX is nearly always the better file: it takes photos down to 1 x 1 and loads faster",
)
