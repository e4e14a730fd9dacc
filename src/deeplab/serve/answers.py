"""What is sent back for a labelled photo: one function an output, each to bytes and their type."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from io import BytesIO
from typing import Any, Literal

import numpy as np

from deeplab.imaging.label_maps import label_map_picture
from deeplab.imaging.png import png_bytes
from deeplab.native.upsample_argmax import label_dtype
from deeplab.prediction.predictor import Predictor
from deeplab.prediction.segmenter import Segmentation
from deeplab.serve.outlines import features, run_lengths

Output = Literal["labels", "overlay", "rle", "polygons", "probabilities", "shares", "together"]
# seen over a network, more takes longer than it saves
COMPRESSION = 1
Answer = tuple[bytes, dict[str, str]]


def label(predictor: Predictor, photo: np.ndarray, output: Output) -> tuple[Segmentation, np.ndarray | None]:
    """The photo labelled as `output` needs it, and for "together" each label's probability, float32 [H, W]."""
    if output == "probabilities":
        labels, found = predictor.probabilities_of(photo)
        labels = labels.to(label_dtype(len(found)))
        # half the bytes; its last digit is a thousandth of the value
        return Segmentation(photo, labels.numpy(), found.half().numpy(), predictor.labels), None
    if output == "together":
        labels, confidence = predictor.label(photo, confidence=True)
        assert confidence is not None
        labels = labels.to(label_dtype(len(predictor.labels.classes)))
        return Segmentation(photo, labels.numpy(), None, predictor.labels), confidence.numpy()
    return Segmentation(photo, predictor.labels_of(photo).numpy(), None, predictor.labels), None


def answer(
    result: Segmentation, confidence: np.ndarray | None, output: Output, about: dict[str, Any]
) -> Answer:
    """A body, and headers that say what it is.

    Args:
        about: what JSON answers say of the model.
    """
    if confidence is not None:
        return _together(result, confidence, about)
    return ANSWERS[output](result, about)


def _labels(result: Segmentation, about: dict[str, Any]) -> Answer:
    picture = label_map_picture(result.labels, palette=np.array(result.spec.palette, np.uint8))
    return png_bytes(picture), {"content-type": "image/png"}


def _overlay(result: Segmentation, about: dict[str, Any]) -> Answer:
    return png_bytes(result.overlay()), {"content-type": "image/png"}


def _run_lengths(result: Segmentation, about: dict[str, Any]) -> Answer:
    return _json(about | run_lengths(result.labels, result.classes))


def _polygons(result: Segmentation, about: dict[str, Any]) -> Answer:
    body, headers = _json(features(result.labels, result.classes))
    return body, headers | {"content-type": "application/geo+json"}


def _probabilities(result: Segmentation, about: dict[str, Any]) -> Answer:
    content = BytesIO()
    assert result.probabilities is not None
    np.save(content, result.probabilities)
    return content.getvalue(), {"content-type": "application/x-npy"}


def _shares(result: Segmentation, about: dict[str, Any]) -> Answer:
    height, width = result.labels.shape
    return _json(about | {"height": height, "width": width, "shares": result.shares})


def _together(result: Segmentation, confidence: np.ndarray, about: dict[str, Any]) -> Answer:
    height, width = result.labels.shape
    wide = result.labels.astype(result.labels.dtype.newbyteorder("<"))
    found = about | {
        "height": height,
        "width": width,
        "shares": result.shares,
        "label_bytes": result.labels.dtype.itemsize,
        "labels": base64.b64encode(wide.tobytes()).decode("ascii"),
        "confidence": base64.b64encode((confidence * 255).round().astype(np.uint8).tobytes()).decode("ascii"),
    }
    body, headers = _json(found)
    return gzip.compress(body, COMPRESSION), headers | {"content-encoding": "gzip"}


def _json(value: dict[str, Any]) -> Answer:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode(), {"content-type": "application/json"}


ANSWERS: dict[str, Callable[[Segmentation, dict[str, Any]], Answer]] = {
    "labels": _labels,
    "overlay": _overlay,
    "rle": _run_lengths,
    "polygons": _polygons,
    "probabilities": _probabilities,
    "shares": _shares,
}
