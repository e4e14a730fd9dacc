"""Where an ONNX file goes next: commands and configurations for programs that are not run here."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np

from deeplab.errors import UserError, require
from deeplab.prediction.artefacts.description import PHOTO, Artefact, Description

# a folder called `triton` in the working directory would be imported by torch for the package of that name
REPOSITORY = "model_repository"
TRITON_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}
BATCH = 8
# names that transformers and Transformers.js have for what goes in and comes out
HF_FOLDER, HF_INPUT, HF_OUTPUT = "hf", "pixel_values", "logits"


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


def write_hf(folder: Path, name: str, artefact: Artefact, photo: np.ndarray) -> Path:
    """A folder for Transformers.js and optimum in `folder`, of the NAME.onnx that lies there; returns its path.

    They feed float [N, channels, H, W], so the cast of bytes becomes a transposition. Values stay 0..255, as the
    preprocessor's config says.

    Args:
        artefact: the file, opened; its output is logits at the photo's size, so that those tools resize nothing.
        photo: uint8 [H, W, channels], which both files have to give the same logits of.

    Raises:
        UserError: they do not.
    """
    onnx, runtime = require("onnx", extra="onnx"), require("onnxruntime", extra="onnx")
    model = onnx.load(os.fspath(folder / f"{name}.onnx"))
    graph = model.graph
    (cast,) = (node for node in graph.node if PHOTO in node.input)
    cast.op_type, cast.input[0] = "Transpose", HF_INPUT
    del cast.attribute[:]
    cast.attribute.append(onnx.helper.make_attribute("perm", (0, 2, 3, 1)))
    (entry,) = graph.input
    batch, height, width, channels = entry.type.tensor_type.shape.dim
    sides = [side.dim_param or side.dim_value for side in (batch, channels, height, width)]
    entry.CopyFrom(onnx.helper.make_tensor_value_info(HF_INPUT, onnx.TensorProto.FLOAT, sides))
    place = folder / HF_FOLDER
    written = place / "onnx" / "model.onnx"
    written.parent.mkdir(parents=True)
    written.write_bytes(model.SerializeToString(deterministic=True))
    session = runtime.InferenceSession(os.fspath(written), providers=["CPUExecutionProvider"])
    pixels = photo.transpose(2, 0, 1)[None].astype(np.float32)
    expected, found = artefact.run(photo[None])[0], session.run([HF_OUTPUT], {HF_INPUT: pixels})[0]
    if found.shape != expected.shape or np.abs(found - expected).max() > 1e-5 * expected.std():
        raise UserError("its logits are not those of the file that it was made from", file=written)
    labels = dict(enumerate(artefact.description.labels.classes))
    _write_json(
        place / "config.json",
        {
            # one that those tools know; the network is in the ONNX file
            "model_type": "segformer",
            "architectures": ["SegformerForSemanticSegmentation"],
            "id2label": labels,
            "label2id": {label: index for index, label in labels.items()},
            "semantic_loss_ignore_index": artefact.description.labels.ignore_label,
        },
    )
    steps = ("resize", "rescale", "normalize", "reduce_labels")
    _write_json(
        place / "preprocessor_config.json",
        {
            "image_processor_type": "SegformerImageProcessor",
            "feature_extractor_type": "SegformerFeatureExtractor",
            **{f"do_{step}": False for step in steps},
        },
    )
    return place


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
