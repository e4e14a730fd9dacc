"""Golden family l: colour maps, saved label maps, sizes, weights of labels, pixels (facts 2.1, 3.1, 5.4, 5.5)."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from deeplab.config import DeepLabConfig, NoContextConfig, PixelConfig, backbone_config
from deeplab.data.resize import resize_to_range_size
from deeplab.imaging.label_maps import read_label_map, save_label_map
from deeplab.imaging.palettes import ADE20K, CITYSCAPES, MAPILLARY, pascal
from deeplab.layers.activations import make_activation
from deeplab.layers.resize import scale_dimension
from deeplab.model.network import DeepLab
from deeplab.presets.reference import VARIANTS
from deeplab.train.losses.cross_entropy import segmentation_cross_entropy
from families.preprocess import pad_pixel
from families.row import Judge, Row, said_as_json

TOLERANCE = 1e-6
PALETTES = {
    "pascal": pascal(512),
    "cityscapes": CITYSCAPES,
    "ade20k": ADE20K,
    "mapillary_vistas": MAPILLARY,
}
IGNORE_LABEL = 255


def run_tools(path: Path) -> Row:
    """Every array and fact of the file that has a counterpart here; the others are named in the row."""
    data, judge = np.load(path), Judge(path.stem)
    facts = said_as_json(data, "meta")
    _sizes(judge, data, facts)
    _colour_maps(judge, data, facts)
    if "annotation_label" in data:
        _annotations(judge, data)
    _weights_of_labels(judge, data, facts)
    _pixels(judge, facts)
    if "q_sigmoid_x" in data:
        ours = make_activation("qsigmoid")(torch.from_numpy(data["q_sigmoid_x"]))
        judge.close("q_sigmoid", ours, data["q_sigmoid_y"], absolute=TOLERANCE)
    if "annotation_normalized" in data:
        judge.remarks.append("annotation_normalized: grey stretched to 0..255 has no counterpart")
    return judge.row()


def _sizes(judge: Judge, data: Any, facts: dict[str, Any]) -> None:
    if "scale_dim_dims" in data:
        dims, scales = data["scale_dim_dims"], data["scale_dim_scales"]
        ours = np.array([[scale_dimension(int(dim), float(scale)) for scale in scales] for dim in dims])
        judge.equal("scale_dimension", ours, data["scale_dim_python"])
        # the reference's other form, in float32, is met only by photos whose size is not known beforehand
        judge.equal(
            "scale_dimension of tensors",
            np.argwhere(ours != data["scale_dim_tensor"]),
            np.argwhere(data["scale_dim_python"] != data["scale_dim_tensor"]),
        )
    for case in facts.get("resize_to_range_sizes", ()):
        options = {name: value for name, value in case.items() if name not in ("h", "w", "out")}
        judge.equal(f"size {case}", resize_to_range_size(case["h"], case["w"], **options), case["out"])


def _colour_maps(judge: Judge, data: Any, facts: dict[str, Any]) -> None:
    for key in data.files:
        if key.startswith("colormap_"):
            judge.equal(key, PALETTES[key.removeprefix("colormap_")], data[key])
    for key, entries in facts.items():
        if key.startswith("colormap_max_entries_"):
            judge.equal(key, len(PALETTES[key.removeprefix("colormap_max_entries_")]), entries)


def _annotations(judge: Judge, data: Any) -> None:
    """A saved label map shows the reference's colours and keeps its numbers."""
    labels = data["annotation_label"]
    with tempfile.TemporaryDirectory() as folder:
        for key in data.files:
            if not key.startswith("annotation_color_"):
                continue
            name = key.removeprefix("annotation_color_")
            path = save_label_map(labels, Path(folder) / "labels.png", palette=PALETTES[name][:256])
            with Image.open(path) as image:
                judge.equal(key, np.array(image.convert("RGB")), data[key])
            with Image.open(io.BytesIO(data[f"annotation_png_{name}"].tobytes())) as image:
                judge.equal(f"annotation_png_{name}", PALETTES[name][labels], np.array(image))
            judge.equal("annotation_raw", read_label_map(path), data["annotation_raw"])


def _weights_of_labels(judge: Judge, data: Any, facts: dict[str, Any]) -> None:
    """Each pixel's weight, read off the gradient of the loss at logits that are all equal."""
    for key in data.files:
        if key.startswith("label_weight_mask_"):
            by_class = facts["label_weights"]
            # the one number of the float mask is told by the mask alone
            weights = by_class if key.endswith("list") else float(data[key].max())
            labels = torch.from_numpy(data["annotation_label"])[None]
            logits = torch.zeros(1, len(by_class), *labels.shape[1:], requires_grad=True)
            segmentation_cross_entropy(logits, labels, class_weights=weights).backward()
            counted = int((labels != IGNORE_LABEL).sum())
            # of softmax's gradient weight * (share - target) / pixels, the sum of the positive parts
            ours = logits.grad[0].clamp(min=0).sum(0) * counted * len(by_class) / (len(by_class) - 1)
            judge.close(key, ours, data[key], absolute=1e-5)


def _pixels(judge: Judge, facts: dict[str, Any]) -> None:
    for variant, pixel in facts.get("mean_pixel", {}).items():
        ours = pad_pixel(None if variant == "None" else variant)
        judge.close(f"mean pixel of {variant}", ours, pixel, relative=TOLERANCE)
    given = facts.get("network_preprocess", {"out": {}})
    for variant, expected in given["out"].items():
        photo = torch.tensor(given["pixels"]).reshape(1, 1, -1, 3).permute(0, 3, 1, 2)
        ours = _normalised(photo, VARIANTS[variant][2]).permute(0, 2, 3, 1).flatten()
        judge.close(f"pixels into {variant}", ours, expected, absolute=TOLERANCE, relative=TOLERANCE)


def _normalised(photo: torch.Tensor, pixels: PixelConfig) -> torch.Tensor:
    """What a model hands to its backbone."""
    seen: list[torch.Tensor] = []
    config = DeepLabConfig(
        backbone=backbone_config("mobilenet_v2", width=0.1),
        context=NoContextConfig(),
        num_classes=2,
        pixels=pixels,
    )
    model = DeepLab(config).eval()
    model.backbone.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.inference_mode():
        model(photo)
    return seen[0]
