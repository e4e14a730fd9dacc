"""The folder where downloaded files and compiled kernels are kept."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "DEEPLAB_CACHE"
ANOTHER_CACHE = f"set {VARIABLE} to another folder"


def cache_folder() -> Path:
    """$DEEPLAB_CACHE, else `deeplab` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(VARIABLE) or Path(base) / "deeplab")
