"""Ways from photos to label maps: each function builds one and returns it, uint8 [N, H, W, 3] to uint8 [N, H, W].

Imports are inside, so that a worker holds only what its variant needs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Labels = Callable[[], np.ndarray]


def peer(*, folder: str, case: dict[str, Any], precision: str) -> Labels:
    """The peer's network in eager PyTorch, then argmax."""
    import torch

    from harness.peer_networks import build, logits_of

    model = build(case["network"], case["classes"])
    model.load_state_dict(torch.load(Path(folder) / "peer.pth", weights_only=True))
    logits = logits_of(case["network"], model)
    photos, about = _photos(folder), json.loads((Path(folder) / "about.json").read_text())
    mean, std = (torch.tensor(about[name]).view(-1, 1, 1) for name in ("mean", "std"))
    lower = precision == "bfloat16"

    def run() -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=lower):
            pixels = torch.from_numpy(photos).permute(0, 3, 1, 2).contiguous().float()
            return logits((pixels - mean) / std).argmax(1).to(torch.uint8).numpy()

    return run


def onnxruntime(*, folder: str, case: dict[str, Any]) -> Labels:
    """The whole task as one ONNX program, in float32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    path = str(Path(folder) / "labels.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: _photos(folder)}
    return lambda: session.run(None, feed)[0]


def openvino(*, folder: str, case: dict[str, Any], precision: str, program: str = "labels.xml") -> Labels:
    """The whole task as one OpenVINO program."""
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": _threads(),
    }
    compiled = openvino.Core().compile_model(str(Path(folder) / program), "CPU", settings)
    request, photos = compiled.create_infer_request(), _photos(folder)
    return lambda: request.infer([photos], share_inputs=True, share_outputs=True)[0]


def ours(*, folder: str, case: dict[str, Any], engine: str, precision: str) -> Labels:
    """This package's `Segmenter`, and what its command does for memory."""
    from deeplab.prediction.segmenter import Segmenter
    from deeplab.system.memory import keep_freed_memory

    keep_freed_memory()
    photos = _photos(folder)
    calibration = list(photos) if precision == "int8" else ()
    segmenter = Segmenter(Path(folder) / "ours", engine=engine, precision=precision, calibration=calibration)
    return lambda: np.stack([segmenter(photo).labels for photo in photos])


def _photos(folder: str) -> np.ndarray:
    return np.load(Path(folder) / "photos.npy")


def _threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])
