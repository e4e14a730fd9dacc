"""`deeplab env`."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Annotated, Any

from cyclopts import Parameter

from deeplab import __version__

KERNELS = (
    *(f"deeplab.native.{name}" for name in ("confusion", "dense_conv", "depthwise", "norm_act", "separable")),
    *(f"deeplab.native.{name}" for name in ("upsample_argmax", "upsample_loss", "winograd")),
    "deeplab.crf.compiled",
    "deeplab.data.fast_crop",
)
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)[^;]*(?:;.*extra == ['\"](?P<extra>[\w-]+)['\"])?")


def env(*, as_json: Annotated[bool, Parameter(name="--json", negative=())] = False) -> None:
    """What runs here: versions, processor, compiled kernels, extras, caches. Kernels are built for the answer.

    Parameters
    ----------
    as_json:
        Print JSON instead of text.
    """
    found = facts()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for title, entries in found.items():
        print(title)
        width = max(map(len, entries), default=0)
        for name, value in entries.items():
            print(*_wrapped(f"  {name:{width}}  ", value), sep="\n")


def facts() -> dict[str, dict[str, str]]:
    """What `deeplab env` says, by title and name."""
    core, extras = _requirements()
    return {
        "versions": {
            "deeplab": __version__,
            "python": f"{platform.python_version()} ({sys.executable})",
            **{name: version_of(name) for name in core},
        },
        "machine": _machine(),
        "kernels": _kernels(),
        "extras": {name: _extra(modules) for name, modules in extras.items()},
        "folders": _folders(),
    }


def version_of(distribution: str) -> str:
    """The installed version, or 'not installed'."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Distributions that the package needs, and those of each extra."""
    from deeplab.errors import DISTRIBUTION

    core, extras = [], dict[str, list[str]]()
    try:
        stated = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        stated = []
    for line in stated:
        found = REQUIREMENT.match(line)
        if found and found["extra"]:
            extras.setdefault(found["extra"], []).append(found["name"])
        elif found:
            core.append(found["name"])
    return core, extras


def _extra(distributions: list[str]) -> str:
    missing = [name for name in distributions if version_of(name) == "not installed"]
    return f"missing: {', '.join(missing)}" if missing else "installed"


def _machine() -> dict[str, str]:
    import torch

    from deeplab.system.processor import has_bfloat16, processor_name

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "processor": processor_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": "yes" if has_bfloat16("cpu") else "no: imitated, slower than float32",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "CUDA": ", ".join(gpus) or "none",
    }


def _kernels() -> dict[str, str]:
    found = {}
    for module in KERNELS:
        kernel: Any = import_module(module).KERNEL
        found[kernel.name] = kernel.why_not or "compiled"
    return found


def _folders() -> dict[str, str]:
    from deeplab.system.cache import VARIABLE, cache_folder

    folder = cache_folder()
    return {
        "cache": f"{folder} (from {VARIABLE})" if os.environ.get(VARIABLE) else str(folder),
        "kernels": str(folder / "native"),
    }


def _wrapped(first: str, text: str) -> list[str]:
    """Lines of at most 80 columns, as far as words are shorter; paths stay whole."""
    lines, margin = [first], " " * len(first)
    for word in text.split():
        if len(lines[-1]) + len(word) > 80 and lines[-1].strip():
            lines.append(margin)
        lines[-1] += word + " "
    return [line.rstrip() for line in lines]
