"""Which number formats a device has instructions for."""

from __future__ import annotations

import platform

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
        return torch.cpu._is_avx512_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
