"""ONNX Runtime runs the network (extra `onnx`): float32, on processors that OpenVINO does not know."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deeplab.errors import UserError, require
from deeplab.model.network import DeepLab
from deeplab.prediction.runtimes.program import (
    Run,
    as_logits,
    as_photos,
    converted,
    exported,
    output_names,
)

EXTRA = "onnx"


def onnxruntime_network(
    model: DeepLab, *, precision: str = "float32", calibration: Sequence[np.ndarray] = ()
) -> Run:
    """A stand-in for `model.low_resolution_logits`, for uint8 images [N, channels, H, W] of any size.

    Runs on as many threads as torch has when it is made. The first time a model is used takes some seconds, which
    the cache folder saves the next time.

    Args:
        model: in eval mode; later changes to it are not seen.
        precision: float32; its processors' kernels know no other.
        calibration: not used in this precision.

    Raises:
        UserError: the extra is not installed, another precision, or the model cannot be converted.
    """
    if precision != "float32":
        raise UserError(f"engine onnxruntime has no precision {precision!r}", allowed="float32")
    runtime = require("onnxruntime", extra=EXTRA)
    path = converted(
        model,
        "network.onnx",
        runtime=f"onnxruntime {runtime.__version__}",
        convert=lambda path: _convert(model, path),
    )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # of the model's warnings, those that a user can do something about are none
    options.log_severity_level = 3
    session = runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    (argument,) = (each.name for each in session.get_inputs())
    # not the model itself, which would keep its weights
    names = output_names(model)

    def network(images: torch.Tensor) -> dict[str, torch.Tensor]:
        results = session.run(None, {argument: as_photos(images).numpy()})
        return as_logits(names, [torch.from_numpy(result) for result in results])

    return network


def _convert(model: DeepLab, path: Path) -> None:
    program = to_onnx(exported(model), fix="engine torch", output_names=list(output_names(model)))
    program.save(os.fspath(path))


def to_onnx(
    program: torch.export.ExportedProgram | torch.nn.Module, *arguments: Any, fix: str = "", **options: Any
) -> Any:
    """`torch.onnx.export`, which prints its progress and warns of torch's own deprecated names, in silence.

    Raises:
        UserError: the extra is not installed, or the model cannot be converted.
    """
    require("onnxscript", extra=EXTRA)
    heard = logging.getLogger("torch.onnx")
    level = heard.level
    heard.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(program, *arguments, verbose=False, **options)
        assert made is not None
    except Exception as error:
        told = str(error).strip().splitlines()[-1:] or [""]
        raise UserError(
            f"this model cannot be converted to ONNX ({type(error).__name__}: {told[0][:200]})", fix=fix
        ) from error
    finally:
        heard.setLevel(level)
    return made
