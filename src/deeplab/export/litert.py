"""LiteRT, TensorFlow Lite's present name: one photo of one size (extra `litert`)."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from deeplab.errors import require
from deeplab.export.gate import resized
from deeplab.export.program import PhotoProgram, traced
from deeplab.export.target import Job, Target, converting
from deeplab.prediction.artefacts.apart import KEY
from deeplab.prediction.artefacts.description import Description
from deeplab.prediction.artefacts.litert import EXTRA


def write_litert(job: Job, path: Path) -> Description:
    """Write the .tflite.

    Raises:
        UserError: the model cannot be converted.
    """
    converter = require("litert_torch", extra=EXTRA)
    (size,) = job.description.input.sizes
    example = torch.zeros((1, *size, job.program.model.config.backbone.in_channels), dtype=torch.uint8)
    with converting("LiteRT", path):
        converter.convert(_without_expand(job.program, size), (example,)).export(os.fspath(path))
        if job.description.precision == "int8":
            photos = [resized(photo, size) for photo in job.calibration]
            _quantise(path, photos)
    stamp_litert(path, job.description)
    return job.description


def _quantise(path: Path, photos: Sequence[np.ndarray]) -> None:
    """Weights by channel and what flows between layers in 8 bits, by Google's quantiser of finished files."""
    quantizer = require("ai_edge_quantizer.quantizer", extra=EXTRA)
    recipe = require("ai_edge_quantizer.recipe", extra=EXTRA)
    runtime = require("ai_edge_litert.interpreter", extra=EXTRA)
    ((signature, taken),) = runtime.Interpreter(model_path=os.fspath(path)).get_signature_list().items()
    (name,) = taken["inputs"]
    quantiser = quantizer.Quantizer(os.fspath(path), recipe.static_wi8_ai8())
    ranges = quantiser.calibrate({signature: [{name: photo[None]} for photo in photos]}, num_threads=1)
    path.write_bytes(quantiser.quantize(ranges).quantized_model)


def _without_expand(program: PhotoProgram, size: tuple[int, int]) -> torch.nn.Module:
    """The program of one size with maps of one position added to zeros, not expanded.

    The converter moves channels last and forgets the sizes that an expansion goes to: the file would not load.
    """
    exported = traced(program, size)
    for node in list(exported.graph.nodes):
        if node.target is torch.ops.aten.expand.default and node.meta["val"].dim() == 4:
            with exported.graph.inserting_before(node):
                zeros = exported.graph.call_function(
                    torch.ops.aten.full.default, ((1, 1, *node.meta["val"].shape[2:]), 0.0)
                )
                added = exported.graph.call_function(torch.ops.aten.add.Tensor, (node.args[0], zeros))
                added.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(added)
            exported.graph.erase_node(node)
    return exported.module()


def stamp_litert(path: Path, description: Description) -> None:
    """Put the description behind the model, where its readers look for a zip."""
    content = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as files:
            content = content[: min(each.header_offset for each in files.infolist())]
    behind = io.BytesIO()
    with zipfile.ZipFile(behind, "w") as files:
        texts = {
            f"{KEY}.json": description.to_json(),
            "labels.txt": "\n".join(description.labels.classes) + "\n",
        }
        for name, text in texts.items():
            # the oldest date that there is: equal models are equal files
            files.writestr(zipfile.ZipInfo(name), text)
    path.write_bytes(content + behind.getvalue())


EXAMPLE_SCRIPT = '''"""Labels of a photo with LiteRT: pip install ai-edge-litert pillow; python example.py PHOTO"""

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

network = Interpreter(model_path=str(Path(__file__).with_name("{file}")))
network.allocate_tensors()
photo = Image.open(sys.argv[1]).convert("RGB").resize(({width}, {height}))
network.set_tensor(network.get_input_details()[0]["index"], np.asarray(photo)[None])
network.invoke()
result = network.get_tensor(network.get_output_details()[{index}]["index"])
{labels}
'''

LITERT = Target(
    name="litert",
    ending=".tflite",
    modules=("litert_torch", "ai_edge_litert"),
    extra=EXTRA,
    precisions=("float32", "int8"),
    write=write_litert,
    stamp=stamp_litert,
    example=EXAMPLE_SCRIPT,
    runtimes=("litert-torch", "ai-edge-litert", "ai-edge-quantizer"),
    sizing="named",
    batch=False,
)
