"""OpenVINO runs the network (extra `openvino`): x86 and ARM processors, float32, bfloat16 or int8."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deeplab.errors import UserError, require
from deeplab.model.network import DeepLab
from deeplab.prediction.runtimes.int8 import quantised
from deeplab.prediction.runtimes.program import (
    Run,
    as_logits,
    as_photos,
    converted,
    exported,
    output_names,
)

# what is left in floating point beside int8 is float32
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
EXTRA = "openvino"


def openvino_network(
    model: DeepLab, *, precision: str = "float32", calibration: Sequence[np.ndarray] = ()
) -> Run:
    """A stand-in for `model.low_resolution_logits`, for uint8 images [N, channels, H, W] of any size.

    Runs on as many threads as torch has when it is made. The first time a model is used takes some seconds, which
    the cache folder saves the next time. Each thread has a request of its own.

    Args:
        model: in eval mode; later changes to it are not seen.
        precision: float32, or bfloat16 or int8 for the arithmetic inside; logits are float32.
        calibration: for int8, photos, uint8 [H, W, channels] of any size; see `quantised`.

    Raises:
        UserError: the extra is not installed, another precision, no photos for int8, or OpenVINO cannot convert
            this model.
    """
    if precision not in PRECISIONS:
        raise UserError(f"engine openvino has no precision {precision!r}", allowed=", ".join(PRECISIONS))
    runtime = require("openvino", extra=EXTRA)
    path = converted(
        model,
        "network.xml",
        runtime=f"openvino {runtime.__version__}",
        convert=lambda path: _convert(runtime, model, path),
    )
    if precision == "int8":
        path = quantised(model, path, calibration)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        # left to itself it takes bfloat16 wherever the processor has it
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = runtime.Core().compile_model(str(path), "CPU", settings)
    own = threading.local()
    # not the model itself, which would keep its weights
    names = output_names(model)

    def network(images: torch.Tensor) -> dict[str, torch.Tensor]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        # copied, as the next call writes over what the request holds, and several passes are kept
        results = own.request.infer([as_photos(images).numpy()], share_inputs=True, share_outputs=False)
        return as_logits(names, [torch.from_numpy(results[index]) for index in range(len(results))])

    return network


def _convert(runtime: Any, model: DeepLab, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # torch's use of its own deprecated names
            warnings.simplefilter("ignore", FutureWarning)
            program = runtime.convert_model(exported(model), extension=missing_operators())
    except Exception as error:
        told = str(error).strip().splitlines()[-1:] or [""]
        raise UserError(
            f"OpenVINO cannot convert this model ({type(error).__name__}: {told[0][:200]})",
            fix="engine torch",
        ) from error
    runtime.save_model(program, os.fspath(path), compress_to_fp16=False)


def missing_operators() -> list[Any]:
    """How sizes are computed in an exported program, as far as OpenVINO's reader does not know it."""
    frontend = require("openvino.frontend", extra=EXTRA)
    ops = require("openvino.opset14", extra=EXTRA)

    def larger(node: Any) -> list[Any]:
        return ops.maximum(*_same_type(node)).outputs()

    def smaller(node: Any) -> list[Any]:
        return ops.minimum(*_same_type(node)).outputs()

    def _same_type(node: Any) -> list[Any]:
        return [ops.convert(node.get_input(index), "i64") for index in (0, 1)]

    return [
        # functions in Python are known by what they print as, address included
        frontend.ConversionExtension(str(torch.sym_max), larger),
        frontend.ConversionExtension(str(torch.sym_min), smaller),
    ]
