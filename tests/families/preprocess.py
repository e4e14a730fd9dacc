"""Golden family h: resizes, scaling, cropping and padding of photos and label maps (fact 5.4).

Differences are grey levels of 0..255; labels are exact.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deeplab.data.augment import (
    GREY_PIXEL,
    IMAGENET_MEAN_PIXEL,
    TrainAugment,
    crop_of_scaled,
    eval_pad,
)
from deeplab.data.resize import (
    ResizeToRange,
    resize_image,
    resize_label,
    resize_plane,
    scale_choices,
    scaled_size,
)
from deeplab.layers.resize import resize_bilinear, resize_nearest
from deeplab.presets.reference import VARIANTS, NotBuilt
from families.row import Judge, Row, only, said_as_json

TOLERANCE = 1e-4
RANGE_OPTIONS = {"min_size", "max_size", "factor", "keep_aspect_ratio"}
PREPROCESS_OPTIONS = {
    "min_resize_value",
    "max_resize_value",
    "resize_factor",
    "ignore_label",
    "model_variant",
}
RESULTS = {"key", "shape", "error", "original_dtype", "image_dtype", "label_dtype"}

Arrays = dict[str, np.ndarray]


def pad_pixel(variant: str | None) -> tuple[float, ...]:
    """What the reference's data code pads photos with (fact 2.1)."""
    if variant is None:
        return IMAGENET_MEAN_PIXEL
    # this one network subtracts the mean and yet is fed grey padding
    return GREY_PIXEL if variant == "resnet_v1_18" else VARIANTS[variant][2].mean


def run_resize_ops(path: Path) -> Row:
    """The bare resizes, in numpy for training data and in torch inside the model."""
    data, judge = np.load(path), Judge(path.stem)
    for case in said_as_json(data, "cases"):
        only(case, {"i", "in_size", "out_size"})
        i, size = case["i"], tuple(case["out_size"])
        x, labels = data[f"x{i}"], data[f"y{i}"]
        planes = torch.from_numpy(x).permute(2, 0, 1)[None]
        in_torch = resize_bilinear(planes, size, "align_corners")[0].permute(1, 2, 0).numpy()
        for kind, ours in (("numpy", resize_image(x, size)), ("torch", in_torch)):
            judge.close(f"bilinear{i} in {kind}", ours, data[f"bilinear{i}"], absolute=TOLERANCE)
        judge.equal(f"nearest{i} in numpy", resize_label(labels, size), data[f"nearest{i}"])
        judge.equal(
            f"nearest{i} in torch", resize_nearest(torch.from_numpy(labels), size), data[f"nearest{i}"]
        )
    return judge.row()


def run_resize_to_range(path: Path) -> Row:
    """Photos and label maps brought to a range of sizes."""
    data, judge = np.load(path), Judge(path.stem)
    for case in said_as_json(data, "cases"):
        only(case, RANGE_OPTIONS | RESULTS | {"label_layout_is_chw"})
        options = {name: case[name] for name in RANGE_OPTIONS & set(case)}
        if "error" in case:
            judge.refused(case["key"], lambda options=options: ResizeToRange(**options))
            continue
        key, resize = case["key"], ResizeToRange(**options)
        image, label = resize(data["image"], _label_plane(data["label"]))
        judge.close(f"{key}_image", image, data[f"{key}_image"], absolute=TOLERANCE)
        if f"{key}_label" in data:
            wanted = _label_plane(data[f"{key}_label"])
            _labels(judge, f"{key}_label", label, wanted)
    return judge.row()


def _label_plane(label: np.ndarray) -> np.ndarray:
    """[H, W] of a label map that may have a third axis of length 1, in front or behind."""
    if label.ndim == 2:
        return label
    return label[0] if label.shape[0] == 1 else label[..., 0]


def _labels(judge: Judge, what: str, ours: np.ndarray, golden: np.ndarray) -> None:
    if golden.dtype.kind == "f":
        judge.close(what, ours, golden, absolute=TOLERANCE)
    else:
        judge.equal(what, ours, golden)


def run_random_scale(path: Path) -> Row:
    """Photos and two stacked label maps at given scales, and which scales can be drawn."""
    data, judge = np.load(path), Judge(path.stem)
    cases = said_as_json(data, "cases")
    only(cases, {"scale", "random_scale_values"})
    for case in cases.get("scale", ()):
        only(case, {"scale", *RESULTS})
        key, size = case["key"], scaled_size(*data["label"].shape, case["scale"])
        judge.close(
            f"{key}_image", resize_image(data["image"], size), data[f"{key}_image"], absolute=TOLERANCE
        )
        labels = np.stack([resize_plane(data[name], size) for name in ("label", "label_noise")], axis=2)
        _labels(judge, f"{key}_labels", labels, data[f"{key}_labels"])
    for arguments, values in cases.get("random_scale_values", {}).items():
        low, high, step = json.loads(arguments)
        if isinstance(values, list):
            ours = scale_choices(low, high, step=step)
            judge.close(f"scales of {arguments}", ours, values, relative=1e-6)
        elif "error" in str(values).lower():
            judge.refused(
                arguments, lambda scales=(low, high): TrainAugment(crop_size=(9, 9), scale_range=scales)
            )
    return judge.row()


def resize_of(case: dict[str, Any]) -> ResizeToRange | None:
    """The resize that a case's options ask for, if any."""
    if case.get("min_resize_value") is None and case.get("max_resize_value") is None:
        return None
    return ResizeToRange(
        min_size=case.get("min_resize_value"),
        max_size=case.get("max_resize_value"),
        factor=case.get("resize_factor"),
    )


def run_evaluation(path: Path) -> Row:
    """The whole path of evaluation photos: resize to a range, pad to the crop; what is refused."""
    data, judge = np.load(path), Judge(path.stem)
    for case in said_as_json(data, "cases"):
        only(case, PREPROCESS_OPTIONS | RESULTS | {"crop_height", "crop_width"})
        if "error" in case:
            judge.refused(case["key"], lambda case=case: _evaluate(data, case))
            continue
        original, image, label = _evaluate(data, case)
        judge.close(f"{case['key']}_original", original, data[f"{case['key']}_original"], absolute=TOLERANCE)
        judge.close(f"{case['key']}_image", image, data[f"{case['key']}_image"], absolute=TOLERANCE)
        judge.equal(f"{case['key']}_label", label, data[f"{case['key']}_label"])
    return judge.row()


def _evaluate(data: Any, case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    resize, image, label = resize_of(case), data["image"], data["label"]
    original = image if resize is None else resize(image, label)[0]
    padded = eval_pad(
        image,
        label,
        (case["crop_height"], case["crop_width"]),
        resize=resize,
        pad_pixel=pad_pixel(case["model_variant"]),
        ignore_label=case.get("ignore_label", 255),
    )
    return original, *padded


def run_training(path: Path) -> Row:
    """The whole path of training photos with every choice made, and crops at given offsets."""
    data, judge = np.load(path), Judge(path.stem)
    for case in said_as_json(data, "cases"):
        only(case, PREPROCESS_OPTIONS | RESULTS | {"scale", "flipped", "crop", "offset"})
        resize, image, label = resize_of(case), data["image"], data["label"]
        if resize is not None:
            image, label = resize(image, label)
        crop, labels = crop_of_scaled(
            image,
            label,
            scale=case["scale"],
            crop_size=tuple(case["crop"]),
            offset=tuple(case.get("offset", (0, 0))),
            flip=case["flipped"],
            pad_pixel=pad_pixel(case["model_variant"]),
            ignore_label=case.get("ignore_label", 255),
        )
        judge.close(f"{case['key']}_image", crop, data[f"{case['key']}_image"], absolute=TOLERANCE)
        judge.equal(f"{case['key']}_label", labels, data[f"{case['key']}_label"])
    for key in data.files:
        if numbers := re.fullmatch(r"crop_(\d+)_(\d+)_(\d+)_(\d+)", key):
            row, column, height, width = map(int, numbers.groups())
            window, _ = crop_of_scaled(
                data["image"], data["label"], scale=1.0, crop_size=(height, width), offset=(row, column)
            )
            judge.close(key, window, data[key], absolute=TOLERANCE)
    if not judge.values:
        raise NotBuilt("no case that this runner knows")
    return judge.row()
