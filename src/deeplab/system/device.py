"""The one choice of where a network computes."""

from __future__ import annotations

import torch

from deeplab.errors import UserError


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the first CUDA GPU, else the CPU.

    Raises:
        UserError: torch does not know it, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # torch lists kinds of device that it was not built for, too
        reason = str(error).splitlines()[0].partition("Expected one of")[0] or "no device is called so"
        raise UserError(
            f"device {name!r} cannot be used here ({reason})",
            allowed="auto, cpu, cuda, cuda:1, mps",
            fix="leave it at auto, which takes a GPU where there is one",
        ) from None
    return device
