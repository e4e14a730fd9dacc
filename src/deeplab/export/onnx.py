"""ONNX, for ONNX Runtime and whatever else reads it: any number and size of photos (extra `onnx`)."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from deeplab.errors import UserError, require
from deeplab.export.program import EXAMPLE, PhotoProgram
from deeplab.export.target import Job, Target
from deeplab.prediction.artefacts.apart import KEY
from deeplab.prediction.artefacts.description import PHOTO, Description
from deeplab.prediction.runtimes.onnxruntime import to_onnx

OPSETS = (18, 23)
# beyond, a protobuf message cannot be read
MOST_BYTES = 2**31 - 1
QUANTISED = ("Conv", "Add", "Clip", "Relu")


def write_onnx(job: Job, path: Path) -> Description:
    """Write the .onnx, float32 or int8.

    Raises:
        UserError: the opset is not one that can be had, or the model cannot be converted.
    """
    onnx = require("onnx", extra="onnx")
    model = converted(job.program, opset=job.opset)
    if job.description.precision == "int8":
        model = _quantised(onnx, model, job)
    _save(onnx, model, job.description, path)
    return job.description


def converted(program: PhotoProgram, *, opset: int) -> Any:
    """The program as an `onnx.ModelProto` that is the same on every machine.

    Raises:
        UserError: see `write_onnx`.
    """
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise UserError(f"opset {opset}", allowed=f"{OPSETS[0]} to {OPSETS[1]}")
    photos = torch.zeros((*EXAMPLE, program.model.config.backbone.in_channels), dtype=torch.uint8)
    sides = ("batch", "height", "width")
    model = to_onnx(
        program.eval(),
        (photos,),
        dynamo=True,
        input_names=[PHOTO],
        output_names=list(program.names),
        opset_version=opset,
        dynamic_shapes=(dict.fromkeys(range(3), torch.export.Dim.DYNAMIC),),
    ).model_proto
    written = {each.domain: each.version for each in model.opset_import}
    if written.get("") != opset:
        raise UserError(
            f"opset {opset} was asked for and this model became {written.get('')}", fix="leave --opset away"
        )
    _forget_the_machine(model, sides)
    _cast_first(model.graph)
    return model


def _cast_first(graph: Any) -> None:
    """The photo's bytes are read by a cast alone, its size from what that gives: TensorRT takes no others."""
    index, cast = next(
        (n, node) for n, node in enumerate(graph.node) if node.op_type == "Cast" and PHOTO in node.input
    )
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] == PHOTO:
            node.input[0] = cast.output[0]
    nodes = list(graph.node)
    nodes.insert(0, nodes.pop(index))
    del graph.node[:]
    graph.node.extend(nodes)


def _forget_the_machine(model: Any, sides: tuple[str, ...]) -> None:
    """Source lines of the exporter go, and sizes get names that say what they are."""
    graph = model.graph
    new = {}
    for dimension, name in zip(graph.input[0].type.tensor_type.shape.dim, sides, strict=False):
        new[dimension.dim_param] = name
    for value in (*graph.input, *graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = new.get(dimension.dim_param, "")
    # shapes between are formulas of the old names; whoever wants them infers them
    del graph.value_info[:]
    for part in (graph, *model.functions):
        del part.metadata_props[:]
        part.doc_string = ""
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.metadata_props[:]


def _quantised(onnx: Any, model: Any, job: Job) -> Any:
    """Integer convolutions by ONNX Runtime's own quantisation: weights by channel in 7 bits, MinMax ranges.

    Seven, as processors without VNNI add two products of eight in 16 bits, which overflow.
    """
    quantization = require("onnxruntime.quantization", extra="onnx")

    # whatever has get_next is a CalibrationDataReader
    class Photos:
        def __init__(self) -> None:
            self.rest = iter(job.calibration)

        def get_next(self) -> dict[str, Any] | None:
            photo = next(self.rest, None)
            return None if photo is None else {PHOTO: photo[None]}

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source, result = os.path.join(folder, "float.onnx"), os.path.join(folder, "int8.onnx")
        onnx.save(model, source)
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)
        try:
            quantization.quantize_static(
                source,
                result,
                Photos(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
        finally:
            logging.root.setLevel(level)
        quantised = onnx.load(result)
    del quantised.graph.value_info[:]
    return quantised


def stamp_onnx(path: Path, description: Description) -> None:
    """Put the description into the file."""
    onnx = require("onnx", extra="onnx")
    _save(onnx, onnx.load(os.fspath(path)), description, path)


def _save(onnx: Any, model: Any, description: Description, path: Path) -> None:
    if model.ByteSize() > MOST_BYTES:
        raise UserError("this model is above 2 GB, which one ONNX file cannot hold")
    del model.metadata_props[:]
    names = {index: name for index, name in enumerate(description.labels.classes)}
    # `names` is where other tools look
    onnx.helper.set_model_props(model, {KEY: description.to_json(), "names": str(names)})
    model.producer_name, model.producer_version = "deeplab", description.versions["deeplab"]
    model.doc_string = f"{description.output.kind} of a photo, uint8 RGB"
    path.write_bytes(model.SerializeToString(deterministic=True))


EXAMPLE_SCRIPT = '''"""Labels of a photo with ONNX Runtime: pip install onnxruntime pillow; python example.py PHOTO"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(Path(__file__).with_name("{file}"), providers=["CPUExecutionProvider"])
photo = np.asarray(Image.open(sys.argv[1]).convert("RGB"))[None]
result = session.run(["{name}"], {{"photo": photo}})[0]
{labels}
'''

ONNX = Target(
    name="onnx",
    ending=".onnx",
    modules=("onnx", "onnxscript", "onnxruntime"),
    extra="onnx",
    precisions=("float32", "int8"),
    write=write_onnx,
    stamp=stamp_onnx,
    example=EXAMPLE_SCRIPT,
    runtimes=("onnx", "onnxscript", "onnxruntime"),
)
