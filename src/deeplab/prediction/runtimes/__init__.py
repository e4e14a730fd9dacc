"""Runtimes that the network may run in: PyTorch, OpenVINO, ONNX Runtime. Upsampling and argmax are the same for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
import torch

from deeplab.errors import UserError
from deeplab.model.network import DeepLab
from deeplab.native import dense_conv
from deeplab.prediction.runtimes.onnxruntime import onnxruntime_network
from deeplab.prediction.runtimes.openvino import openvino_network
from deeplab.prediction.runtimes.program import Run

TORCH, AUTO, INT8 = "torch", "auto", "int8"
# by what is faster
ENGINES: dict[str, Callable[..., Run]] = {
    "openvino": openvino_network,
    "onnxruntime": onnxruntime_network,
}


def engine_network(
    model: DeepLab,
    engine: str,
    *,
    device: torch.device,
    precision: str = "float32",
    calibration: Sequence[np.ndarray] = (),
) -> tuple[str, Run] | None:
    """A runtime's name and its stand-in for `model.low_resolution_logits`, or None where PyTorch is to run it.

    In float32 logits agree with PyTorch's within 1e-4 of their standard deviation, whatever the engine.

    Args:
        model: in eval mode.
        engine: torch, openvino or onnxruntime; or auto, the fastest one installed that can run this model.
        device: where PyTorch would run it; the other engines run on processors.
        precision, calibration: see `openvino_network`; engines know different precisions.

    Raises:
        UserError: no such engine, or it is not installed or cannot run this model there; never with auto.
    """
    if engine not in (AUTO, TORCH, *ENGINES):
        raise UserError(f"no engine {engine!r}", allowed=f"{AUTO}, {TORCH}, {', '.join(ENGINES)}")
    if engine == TORCH:
        return None
    unfit = _unfit(model, device)
    if engine == AUTO:
        return None if unfit or _torch_is_fastest(precision) else _fastest(model, precision, calibration)
    if unfit:
        raise UserError(f"{_asked(engine, precision)}: {unfit}", fix=f"engine {TORCH}, float32")
    return engine, ENGINES[engine](model, precision=precision, calibration=calibration)


def _asked(engine: str, precision: str) -> str:
    return f"engine {engine}" + f" in {INT8}" * (precision == INT8)


def _unfit(model: DeepLab, device: torch.device) -> str:
    if device.type != "cpu":
        return f"it runs on processors, and the device is {device}"
    if model.eight_bit:
        return "this model computes in 8 bits with PyTorch's arithmetic only"
    return ""


def _torch_is_fastest(precision: str) -> bool:
    """Whether our own convolutions run, which no engine outruns; see docs/speed.md."""
    return (
        precision == "float32"
        and torch.backends.cpu.get_cpu_capability() in dense_conv.PROCESSORS
        and dense_conv.KERNEL.ready()
    )


def _fastest(model: DeepLab, precision: str, calibration: Sequence[np.ndarray]) -> tuple[str, Run] | None:
    for name, make in ENGINES.items():
        if find_spec(name) is not None:
            try:
                return name, make(model, precision=precision, calibration=calibration)
            except UserError:
                continue
    return None
