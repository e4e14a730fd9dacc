"""The folder where downloaded files, converted networks and compiled kernels are kept."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

VARIABLE = "DEEPLAB_CACHE"
ANOTHER_CACHE = f"set {VARIABLE} to another folder"


def cache_folder() -> Path:
    """$DEEPLAB_CACHE, else `deeplab` in the user's cache folder, such as ~/.cache/deeplab."""
    return Path(os.environ.get(VARIABLE) or user_cache_path("deeplab", appauthor=False))
