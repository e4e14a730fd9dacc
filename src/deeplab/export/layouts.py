"""Where an ONNX file goes next, on paper: these commands and configurations are written, and not run here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from deeplab.prediction.artefacts.description import PHOTO, Description

# a folder called `triton` in the working directory would be imported by torch for the package of that name
REPOSITORY = "model_repository"
TRITON_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}
BATCH = 8


def trtexec(description: Description, file: str) -> str:
    """The command that builds a TensorRT engine, for photos of 65 x 65 to 1025 x 2049."""
    channels = description.input.channels
    sizes = {"min": f"1x65x65x{channels}", "opt": f"1x513x513x{channels}", "max": f"4x1025x2049x{channels}"}
    shapes = " ".join(f"--{name}Shapes={PHOTO}:{size}" for name, size in sizes.items())
    return f"trtexec --onnx={file} {shapes} --fp16 --saveEngine={Path(file).stem}.plan"


def write_triton(folder: Path, name: str, description: Description) -> Path:
    """A model repository of Triton's in `folder`, of the NAME.onnx that lies there; returns its path.

    Triton joins photos of equal size only.
    """
    place = folder / REPOSITORY / name
    (place / "1").mkdir(parents=True)
    source = folder / f"{name}.onnx"
    try:
        os.link(source, place / "1" / "model.onnx")
    except OSError:
        shutil.copyfile(source, place / "1" / "model.onnx")
    output = description.output
    grid = "[-1, -1]" if output.kind == "labels" else "[-1, -1, -1]"
    outputs = ", ".join(
        f'{{ name: "{each}", data_type: {TRITON_TYPES[output.dtype]}, dims: {grid} }}'
        for each in output.names
    )
    (place / "config.pbtxt").write_text(
        f'name: "{name}"\n'
        'backend: "onnxruntime"\n'
        f"max_batch_size: {BATCH}\n"
        f'input [{{ name: "{PHOTO}", data_type: TYPE_UINT8, dims: [-1, -1, {description.input.channels}] }}]\n'
        f"output [{outputs}]\n"
        "dynamic_batching {}\n",
        encoding="utf-8",
    )
    return place
