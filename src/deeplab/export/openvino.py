"""OpenVINO's own file, by way of ONNX: any number and size of photos (extras `openvino` and `onnx`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from deeplab.errors import require
from deeplab.export.onnx import converted
from deeplab.export.target import Job, Target, converting
from deeplab.prediction.artefacts.apart import KEY
from deeplab.prediction.artefacts.description import Description
from deeplab.prediction.runtimes.int8 import write_int8


def write_openvino(job: Job, path: Path) -> Description:
    """Write the .xml and its .bin: float32, weights of float16, or int8.

    Raises:
        UserError: the model cannot be converted.
    """
    runtime = require("openvino", extra="openvino")
    source, plain = path.with_name("source.onnx"), path.with_name("float.xml")
    try:
        # its reader of torch's programs knows fewer operators than that of ONNX
        source.write_bytes(converted(job.program, opset=job.opset).SerializeToString())
        with converting("OpenVINO", path):
            network = runtime.convert_model(os.fspath(source))
            if job.description.precision == "int8":
                runtime.save_model(network, os.fspath(plain), compress_to_fp16=False)
                write_int8(plain, job.calibration, path)
                network = _in_memory(runtime, path)
            _save(runtime, network, job.description, path)
        return job.description
    finally:
        for rest in (source, plain, plain.with_suffix(".bin")):
            rest.unlink(missing_ok=True)


def stamp_openvino(path: Path, description: Description) -> None:
    """Put the description into the file."""
    runtime = require("openvino", extra="openvino")
    _save(runtime, _in_memory(runtime, path), description, path)


def _in_memory(runtime: Any, path: Path) -> Any:
    """The network, without a hold on files that are about to be written."""
    return runtime.Core().read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())


def _save(runtime: Any, network: Any, description: Description, path: Path) -> None:
    # what the converter was given names files of this machine
    for section in ("conversion_parameters", "nncf"):
        if network.has_rt_info([section]):
            del network.rt_info[section]
    network.set_rt_info(description.to_json(), [KEY])
    network.set_rt_info("segmentation", ["model_info", "model_type"])
    network.set_rt_info(
        " ".join(name.replace(" ", "_") for name in description.labels.classes), ["model_info", "labels"]
    )
    # names that the converter makes up count on from what the process converted before
    inner = [
        each for each in network.get_ordered_ops() if each.get_type_name() not in ("Parameter", "Result")
    ]
    for number, operation in enumerate(inner):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    half = description.precision == "float16"
    runtime.save_model(network, os.fspath(path), compress_to_fp16=half)


EXAMPLE_SCRIPT = '''"""Labels of a photo with OpenVINO: pip install openvino pillow; python example.py PHOTO"""

import sys
from pathlib import Path

import numpy as np
import openvino
from PIL import Image

# ACCURACY: left to itself it computes in bfloat16 where the processor can, and labels change
settings = {{"EXECUTION_MODE_HINT": "ACCURACY"}}
network = openvino.Core().compile_model(Path(__file__).with_name("{file}"), "CPU", settings)
photo = np.asarray(Image.open(sys.argv[1]).convert("RGB"))[None]
result = network([photo])["{name}"]
{labels}
'''

OPENVINO = Target(
    name="openvino",
    ending=".xml",
    modules=("openvino", "onnx", "onnxscript"),
    extra="openvino,onnx",
    precisions=("float32", "float16", "int8"),
    write=write_openvino,
    stamp=stamp_openvino,
    example=EXAMPLE_SCRIPT,
    runtimes=("openvino", "onnx", "onnxscript"),
    note=(
        "OpenVINO computes in bfloat16 on processors that have it unless EXECUTION_MODE_HINT is ACCURACY or "
        "INFERENCE_PRECISION_HINT f32, which is set where it is loaded and cannot be in the file"
    ),
)
