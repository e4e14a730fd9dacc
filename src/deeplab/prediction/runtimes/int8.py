"""An OpenVINO program in 8-bit integers, its ranges taken from photos (extra `int8`).

Post-training quantisation by NNCF: weights by output channel, what flows between layers by tensor, biases corrected.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from deeplab.errors import require
from deeplab.model.network import DeepLab
from deeplab.prediction.runtimes.program import converted

EXTRA = "int8"


def quantised(model: DeepLab, program: Path, photos: Sequence[np.ndarray]) -> Path:
    """The int8 form of an OpenVINO program, from the cache folder if it was made before with the same photos.

    Args:
        model: what the program was made from.
        program: its .xml.
        photos: see `write_int8`.

    Raises:
        UserError: the extra is not installed.
    """
    runtime = require("openvino", extra=EXTRA)
    return converted(
        model,
        "network.xml",
        runtime=f"openvino {runtime.__version__} int8",
        convert=lambda path: write_int8(program, photos, path),
        photos=photos,
    )


def write_int8(program: Path, photos: Sequence[np.ndarray], path: Path) -> None:
    """Quantise the OpenVINO program in one file into another.

    Weights keep to 7 bits: processors without VNNI sum 8-bit products in pairs to 16 bits, which overflow otherwise
    (labels of the embedded model then agreed on 78 % of pixels, with 7 bits on 99 %); so results are alike everywhere.

    Args:
        program: .xml of a program that takes uint8 [N, H, W, channels].
        photos: some dozens, uint8 [H, W, channels] of any size, like those that the model will see.
        path: .xml to write; its weights go beside it.

    Raises:
        UserError: the extra is not installed.
    """
    nncf = require("nncf", extra=EXTRA)
    runtime = require("openvino", extra=EXTRA)
    advanced = require("nncf.quantization.advanced_parameters", extra=EXTRA)
    nncf.set_log_level(logging.ERROR)
    # it draws progress bars, and warns of what it does itself
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = nncf.quantize(
            runtime.Core().read_model(program),
            nncf.Dataset([photo[None] for photo in photos]),
            subset_size=len(photos),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=advanced.OverflowFix.ENABLE),
        )
    runtime.save_model(result, os.fspath(path), compress_to_fp16=False)
