"""ExecuTorch with XNNPACK, for phones and small machines: one photo up to a stated size (extra `executorch`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from deeplab.errors import UserError, require
from deeplab.export.gate import resized
from deeplab.export.target import Job, Target, converting
from deeplab.prediction.artefacts.apart import METHOD
from deeplab.prediction.artefacts.description import Description
from deeplab.prediction.artefacts.executorch import EXTRA

# XNNPACK cannot pool what is smaller than its windows
SMALLEST = 33


def write_executorch(job: Job, path: Path) -> Description:
    """Write the .pte.

    Raises:
        UserError: the model cannot be converted.
    """
    edge = require("executorch.exir", extra=EXTRA)
    xnnpack = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", extra=EXTRA)
    taken = job.description.input.model_copy(update={"smallest": (SMALLEST, SMALLEST)})
    largest = taken.largest or taken.smallest
    if min(largest) <= SMALLEST:
        raise UserError(
            f"--max-size {largest[0]} {largest[1]} is too small for ExecuTorch",
            allowed=f"sides above {SMALLEST}",
        )
    description = job.description.model_copy(update={"input": taken})
    channels = job.program.model.config.backbone.in_channels
    # the example is the largest photo: the program's memory is planned for it
    example = torch.zeros((1, *largest, channels), dtype=torch.uint8)
    sides = {
        axis: torch.export.Dim.AUTO(min=SMALLEST, max=most) for axis, most in enumerate(largest, start=1)
    }
    with converting("ExecuTorch", path):
        exported = torch.export.export(job.program.eval(), (example,), dynamic_shapes=(sides,))
        if description.precision == "int8":
            photos = [resized(photo, taken.nearest(photo.shape[:2])) for photo in job.calibration]
            quantised = _quantised(exported.module(check_guards=False), photos)
            exported = torch.export.export(quantised, (example,), dynamic_shapes=(sides,))
        lowered = edge.to_edge_transform_and_lower(
            exported,
            partitioner=[xnnpack.XnnpackPartitioner()],
            constant_methods={METHOD: description.to_json()},
        )
        path.write_bytes(lowered.to_executorch().buffer)
    return description


def _quantised(module: torch.nn.Module, photos: Sequence[np.ndarray]) -> torch.nn.Module:
    """Weights by channel and what flows between layers in 8 bits, as XNNPACK computes them."""
    xnnpack = require("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", extra=EXTRA)
    tools = require("torchao.quantization.pt2e.quantize_pt2e", extra=EXTRA)
    ways = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    prepared = tools.prepare_pt2e(module, xnnpack.XNNPACKQuantizer().set_global(ways))
    for photo in photos:
        prepared(torch.from_numpy(np.ascontiguousarray(photo[None])))
    return tools.convert_pt2e(prepared)


EXAMPLE_SCRIPT = '''"""Labels of a photo with ExecuTorch: pip install executorch pillow; python example.py PHOTO"""

import sys
from pathlib import Path

import numpy as np
import torch
from executorch.runtime import Runtime
from PIL import Image

network = Runtime.get().load_program(Path(__file__).with_name("{file}")).load_method("forward")
photo = Image.open(sys.argv[1]).convert("RGB")
photo.thumbnail(({width}, {height}))
result = network.execute([torch.from_numpy(np.array(photo)[None])])[{index}].numpy()
{labels}
'''

EXECUTORCH = Target(
    name="executorch",
    ending=".pte",
    modules=("executorch.exir", "executorch.runtime"),
    extra=EXTRA,
    precisions=("float32", "int8"),
    write=write_executorch,
    stamp=None,
    example=EXAMPLE_SCRIPT,
    runtimes=("executorch",),
    sizing="up to",
    batch=False,
    note="figures of the comparison stand in export.json alone: only writing it again could put them into the file",
)
