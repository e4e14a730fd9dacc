"""DeepLab v1, v2, v3 and v3+: train, evaluate, run and ship, with everybody's published weights."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplab.config import DeepLabConfig
    from deeplab.config.labels import LabelSpec
    from deeplab.model.network import DeepLab
    from deeplab.prediction.segmenter import Segmentation, Segmenter

__version__ = "0.1.0"
__all__ = ["DeepLab", "DeepLabConfig", "LabelSpec", "Segmentation", "Segmenter", "__version__"]

# torch takes a second to import: the command line answers --help without it
_HOMES = {
    "DeepLab": "deeplab.model.network",
    "DeepLabConfig": "deeplab.config",
    "LabelSpec": "deeplab.config.labels",
    "Segmentation": "deeplab.prediction.segmenter",
    "Segmenter": "deeplab.prediction.segmenter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'deeplab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
