"""The fully connected CRF of v1 and v2 (v1 section 4.1, v2 section 3.3): labels snapped to edges of the photo."""

from __future__ import annotations

from deeplab.crf.config import CRF_PRESETS, V1, V2_RESNET101, CRFConfig, SearchRanges, crf_parameters
from deeplab.crf.dense import dense_crf, dense_crf_from_energies
from deeplab.crf.engine import Engine, chosen_engine

__all__ = [
    "CRF_PRESETS",
    "V1",
    "V2_RESNET101",
    "CRFConfig",
    "Engine",
    "SearchRanges",
    "chosen_engine",
    "crf_parameters",
    "dense_crf",
    "dense_crf_from_energies",
]
