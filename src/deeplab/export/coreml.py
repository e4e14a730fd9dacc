"""Core ML, for Apple's systems: one photo of one size, or of several as functions of one package (extra `coreml`).

Only Apple's systems run these files, so that the gate cannot: what is read back is the form.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deeplab.errors import UserError, require
from deeplab.export.program import PhotoProgram
from deeplab.export.target import Job, Target, converting
from deeplab.prediction.artefacts.apart import KEY
from deeplab.prediction.artefacts.description import PHOTO, Description, Side

EXTRA = "coreml"
# what Xcode shows a segmentation with
PREVIEW = "com.apple.coreml.model.preview"


class _Image(nn.Module):
    """Core ML's images are float [1, channels, H, W]."""

    def __init__(self, program: PhotoProgram) -> None:
        super().__init__()
        self.program = program

    def forward(self, photo: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.program(photo.permute(0, 2, 3, 1))


def write_coreml(job: Job, path: Path) -> Description:
    """Write the .mlpackage, a folder.

    Raises:
        UserError: photos are not RGB, or the model cannot be converted.
    """
    tools = require("coremltools", extra=EXTRA)
    channels = job.program.model.config.backbone.in_channels
    if channels != 3:
        raise UserError(
            f"Core ML takes images, and this model takes photos of {channels} channels",
            fix="--to onnx, which takes any number",
        )
    taken = job.description.input.model_copy(update={"layout": "image"})
    description = job.description.model_copy(update={"input": taken})
    with converting("Core ML", path), tempfile.TemporaryDirectory() as folder:
        _save(_converted(tools, job, folder), description, path)
    _refuse_another_form(tools, description, path)
    return description


def _converted(tools: Any, job: Job, folder: str) -> Any:
    """A model of one size, or of several joined in `folder`, which share their weights."""
    sizes = job.description.input.sizes
    if len(sizes) == 1:
        return _of_size(tools, job, sizes[0])
    together, joined = tools.utils.MultiFunctionDescriptor(), os.path.join(folder, "joined.mlpackage")
    for size in sizes:
        one = os.path.join(folder, f"{function_name(size)}.mlpackage")
        _of_size(tools, job, size).save(one)
        together.add_function(one, "main", function_name(size))
    together.default_function_name = function_name(sizes[0])
    tools.utils.save_multifunction(together, joined)
    return tools.models.MLModel(joined, skip_model_load=True)


def function_name(size: Side) -> str:
    """Of the function that takes photos of this size, in a package of several."""
    return f"size_{size[0]}x{size[1]}"


def _of_size(tools: Any, job: Job, size: Side) -> Any:
    example = torch.zeros((1, 3, *size))
    program = torch.export.export(_Image(job.program).eval(), (example,)).run_decompositions({})
    several = len(job.description.input.sizes) > 1
    whole = job.description.output.dtype == "int32"
    half = job.description.precision == "float16"
    return tools.convert(
        program,
        inputs=[tools.ImageType(name=PHOTO, shape=example.shape, color_layout=tools.colorlayout.RGB)],
        outputs=[
            tools.TensorType(name=name, dtype=np.int32 if whole else np.float32) for name in job.program.names
        ],
        # several functions are known from there on
        minimum_deployment_target=tools.target.iOS18 if several else tools.target.iOS17,
        compute_precision=tools.precision.FLOAT16 if half else tools.precision.FLOAT32,
        skip_model_load=True,
    )


def _save(model: Any, description: Description, path: Path) -> None:
    model.short_description = f"{description.output.kind} of a photo"
    model.version = description.versions["deeplab"]
    values = model.user_defined_metadata
    values[KEY] = description.to_json()
    if description.output.kind == "labels":
        colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in description.labels.palette]
        values[f"{PREVIEW}.type"] = "imageSegmenter"
        values[f"{PREVIEW}.params"] = json.dumps({"labels": description.labels.classes, "colors": colours})
    model.save(os.fspath(path))
    # the converter's notes for another runtime
    path.joinpath("executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    _name_by_content(path)


def _name_by_content(path: Path) -> None:
    """Names in the package's list of files follow from their paths; the library draws them."""
    listed = path / "Manifest.json"
    content = json.loads(listed.read_text(encoding="utf-8"))
    new = {
        old: str(uuid.uuid5(uuid.NAMESPACE_URL, each["path"])).upper()
        for old, each in content["itemInfoEntries"].items()
    }
    content["itemInfoEntries"] = {new[old]: each for old, each in content["itemInfoEntries"].items()}
    content["rootModelIdentifier"] = new[content["rootModelIdentifier"]]
    listed.write_text(json.dumps(content, indent=4, sort_keys=True), encoding="utf-8")


def _refuse_another_form(tools: Any, description: Description, path: Path) -> None:
    """What the file says of itself: metadata, sizes, types.

    Raises:
        UserError: it is not what was asked for.
    """
    model = tools.models.MLModel(os.fspath(path), skip_model_load=True)
    spec = model.get_spec().description
    sides = [
        (each.input[0].type.imageType.height, each.input[0].type.imageType.width)
        for each in spec.functions or [spec]
    ]
    names = [each.name for each in (spec.functions[0] if spec.functions else spec).output]
    text = model.user_defined_metadata[KEY]
    if (
        sides != [*description.input.sizes]
        or names != [*description.output.names]
        or text != description.to_json()
    ):
        raise UserError(
            f"Core ML's file says {sides} and {names} of itself, which was not asked for", file=path
        )


EXAMPLE_SCRIPT = '''"""Labels of a photo on a Mac: pip install coremltools pillow; python example.py PHOTO"""

import sys
from pathlib import Path

import coremltools
import numpy as np
from PIL import Image

network = coremltools.models.MLModel(str(Path(__file__).with_name("{file}")))
photo = Image.open(sys.argv[1]).convert("RGB").resize(({width}, {height}))
result = network.predict({{"photo": photo}})["{name}"]
{labels}
'''

COREML = Target(
    name="coreml",
    ending=".mlpackage",
    modules=("coremltools",),
    extra=EXTRA,
    precisions=("float32", "float16"),
    write=write_coreml,
    stamp=None,
    example=EXAMPLE_SCRIPT,
    runtimes=("coremltools",),
    sizing="named",
    several_sizes=True,
    label_type=torch.int32,
    batch=False,
    note="not run: only Apple's systems run Core ML, so no figure says that this file computes what the model does; "
    "its form was read back",
    runs_here=False,
)
