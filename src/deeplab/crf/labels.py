"""Labels of a photo by a network and the fully connected CRF on its probabilities at full size."""

from __future__ import annotations

import numpy as np
import torch

from deeplab.crf.config import CRFConfig
from deeplab.crf.dense import dense_crf
from deeplab.model import DeepLab
from deeplab.prediction.inference import predict
from deeplab.prediction.strips import Labelled


def marginals_of(
    model: DeepLab,
    photo: np.ndarray,
    *,
    parameters: CRFConfig,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
) -> torch.Tensor:
    """float32 [C, H, W] on the CPU, summing to 1 over C.

    Args:
        model: in eval mode.
        photo: uint8 [H, W, 3].
        parameters: see `deeplab.crf.CRFConfig`.
        scales, flip: see `deeplab.prediction.inference.predict`; the CRF runs once, on what they average to.
    """
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].to(next(model.parameters()).device)
    found = predict(model, pixels, scales=scales, flip=flip)["semantic"].probabilities[0]
    return dense_crf(found.float().cpu(), photo, parameters=parameters)


def predict_with_crf(
    model: DeepLab,
    photo: np.ndarray,
    *,
    parameters: CRFConfig,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
) -> Labelled:
    """The most probable class of each pixel and its marginal; see `marginals_of`."""
    marginals = marginals_of(model, photo, parameters=parameters, scales=scales, flip=flip)
    confidence, labels = marginals.max(0)
    return Labelled(labels, confidence)
