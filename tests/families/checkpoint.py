"""Golden family m, models: a checkpoint with its frozen graph (facts 4.1 and 6.6).

Differences are probabilities.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from deeplab.data.augment import pad_bottom_right
from deeplab.data.resize import ResizeToRange, resize_image, resize_label
from deeplab.importers import import_weights
from deeplab.model.network import DeepLab
from deeplab.prediction.reference import predict_as_reference
from deeplab.presets.reference import config_from_options
from families.preprocess import pad_pixel
from families.row import Judge, Row, said_as_json

GAP = 1e-4
PROBABILITY_TOLERANCE = 1e-4


def run_checkpoint(folder: Path) -> Row:
    """The checkpoint and the frozen graph give one model, and that model the expected labels."""
    data, judge = np.load(folder / "expected.npz"), Judge(folder.name)
    meta = said_as_json(data, "meta")
    model, *others = (import_weights(path)[0] for path in (*folder.glob("*.index"), *folder.glob("*.pb")))
    for other in (model, *others):
        if other.config != config_from_options(meta["options"]):
            judge.failed.append("checkpoint, graph and options do not give one config")
        state = other.state_dict()
        for key, value in model.state_dict().items():
            judge.equal(key, value, state[key])
    labels, probabilities = exported(model, data["input"], _flags(meta["export_flags"]))
    judge.sure_labels("labels", labels, data["labels"], sure=data["top2_gap"] > GAP)
    step = meta["prob_sample_stride"]
    judge.close("prob", probabilities[::step, ::step], data["prob"], absolute=PROBABILITY_TOLERANCE)
    return judge.row()


def _flags(words: list[str]) -> dict[str, list[str]]:
    """--name=value words; a flag given twice, or with commas, has several values."""
    flags: dict[str, list[str]] = {}
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        flags.setdefault(name, []).extend(value.split(","))
    return flags


def exported(model: DeepLab, photo: np.ndarray, flags: dict[str, list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """What the reference's exported graph gives: (labels [H, W], probabilities [H, W, C]) of a photo.

    Resize to a range, pad to the crop with the mean pixel, predict, cut the padding off, resize back.
    """
    image, blank = photo.astype(np.float32), np.zeros(photo.shape[:2], np.uint8)
    number = {name: int(values[0]) for name, values in flags.items() if name.endswith(("value", "factor"))}
    if "min_resize_value" in number:
        resize = ResizeToRange(
            min_size=number["min_resize_value"],
            max_size=number.get("max_resize_value"),
            factor=number.get("resize_factor"),
        )
        image, blank = resize(image, blank)
    height, width = blank.shape
    crop = [int(side) for side in flags["crop_size"]]
    variant = flags.get("model_variant", ["mobilenet_v2"])[0]
    padded, _ = pad_bottom_right(image, blank, (crop[0], crop[-1]), pad_pixel=pad_pixel(variant))
    predicted = predict_as_reference(
        model,
        torch.from_numpy(padded.copy()).permute(2, 0, 1)[None],
        scales=tuple(float(scale) for scale in flags.get("inference_scales", ["1.0"])),
        flip=flags.get("add_flipped_images", ["false"])[0].lower() in ("true", "1", ""),
    )["semantic"]
    labels = predicted.labels[0, :height, :width].numpy()
    probabilities = predicted.probabilities[0, :, :height, :width].permute(1, 2, 0).numpy()
    size = (photo.shape[0], photo.shape[1])
    return resize_label(labels, size), resize_image(probabilities, size)
