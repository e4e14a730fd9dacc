"""LiteRT, TensorFlow Lite's present name: one photo of one size (extra `litert`)."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

import torch

from deeplab.errors import UserError, require
from deeplab.export.program import PhotoProgram, traced
from deeplab.export.target import Job, Target
from deeplab.prediction.artefacts.description import KEY, Description
from deeplab.prediction.artefacts.litert import EXTRA


def write_litert(job: Job, path: Path) -> Description:
    """Write the .tflite.

    Raises:
        UserError: the model cannot be converted.
    """
    converter = require("litert_torch", extra=EXTRA)
    (size,) = job.description.input.sizes
    example = torch.zeros((1, *size, job.program.model.config.backbone.in_channels), dtype=torch.uint8)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = converter.convert(_without_expand(job.program, size), (example,))
        made.export(os.fspath(path))
    except OSError:
        raise
    except Exception as error:
        told = str(error).strip().splitlines()[-1:] or [""]
        raise UserError(
            f"this model cannot be converted to LiteRT ({type(error).__name__}: {told[0][:200]})"
        ) from error
    stamp_litert(path, job.description)
    return job.description


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
    precisions=("float32",),
    write=write_litert,
    stamp=stamp_litert,
    example=EXAMPLE_SCRIPT,
    runtimes=("litert-torch", "ai-edge-litert"),
    sizing="named",
    batch=False,
)
