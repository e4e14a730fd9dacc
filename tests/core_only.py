"""Run with the core dependencies alone: every module imports, and the main job runs.

`make test-oldest` runs this at the oldest versions that pyproject.toml admits.
"""

from __future__ import annotations

import importlib
import pkgutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

import deeplab
from deeplab import Segmenter
from deeplab.cli.app import main

CORE = ("torch", "numpy", "pillow", "safetensors", "pydantic", "cyclopts", "rich", "pyyaml")


def import_everything() -> int:
    """Import every module of the package; returns how many."""
    names = [module.name for module in pkgutil.walk_packages(deeplab.__path__, "deeplab.")]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    return len(names)


def run_the_main_job(folder: Path) -> None:
    """Label a made-up photo through the command line and from Python; both must agree."""
    pixels = np.random.default_rng(0).integers(0, 256, (65, 49, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    try:
        main(["predict", str(folder / "photo.png"), "-o", str(folder / "out")])
    except SystemExit as stopped:
        assert not stopped.code, stopped.code
    with Image.open(folder / "out" / "photo_labels.png") as labels:
        assert (np.array(labels) == Segmenter()(pixels).labels).all()


if __name__ == "__main__":
    count = import_everything()
    with tempfile.TemporaryDirectory() as folder:
        run_the_main_job(Path(folder))
    print(f"{count} modules and the main job run with", ", ".join(f"{name} {version(name)}" for name in CORE))
