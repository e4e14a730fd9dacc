"""What the processor is, and which number formats a device has instructions for."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether `device` computes in bfloat16 itself, instead of imitating it, which takes many times as long as float32.

    CUDA GPUs since Ampere, x86 processors with AVX-512 BF16 or AMX, ARM processors with BF16.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def processor_name() -> str:
    """The processor's own name where the system tells it, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
