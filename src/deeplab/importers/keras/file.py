"""Keras's weights: layers with their arrays, from .h5 (Keras 1 and 2) and .keras or .weights.h5 (Keras 3).

An .h5 file lists its layers and their weights by name in attributes. A Keras 3 archive numbers layers by
class (`conv2d_3`), in the order of its config.json, which has their names; .weights.h5 alone has no names.
Needs h5py (extra `keras`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab.errors import UserError
from deeplab.system.files.hdf5 import Group, read_hdf5
from deeplab.system.reading import cut, foreign, parse_json, plain_file, read_bytes, read_member, zip_archive

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ZIP_SIGNATURE = b"PK\x03\x04"
WEIGHTS = "model.weights.h5"
ALLOWED = ".h5 weights or models, .keras, .weights.h5"
# what the arrays of a layer are, by its class in snake case, in the order Keras keeps them
ARRAYS = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "depthwise_conv2d": ("depthwise_kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
# Keras 1 had other names
OLD_NAMES = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}


class KerasLayer(NamedTuple):
    """A layer with weights: its name, its class in snake case, and float32 arrays in Keras's layout."""

    name: str
    kind: str
    arrays: dict[str, np.ndarray]


def is_keras(head: bytes) -> bool:
    """Whether a file that begins with `head` may be Keras's: HDF5, or a zip archive with a Keras config."""
    in_archive = head.startswith(ZIP_SIGNATURE) and any(
        name in head for name in (b"metadata.json", WEIGHTS.encode(), b"config.json")
    )
    return head.startswith(HDF5_SIGNATURE) or in_archive


def read_keras(path: Path) -> list[KerasLayer]:
    """Layers with weights, in the model's order, those of nested models in their place.

    Raises:
        UserError: the extra `keras` is not installed, or the file is damaged or is no Keras model.
    """
    with foreign(path, "cannot be read as a Keras model", fix=f"give {ALLOWED}"):
        with plain_file(path) as file:
            zipped = file.read(4) == ZIP_SIGNATURE
        if zipped:
            with zip_archive(path) as archive:
                size = path.stat().st_size
                config = parse_json(read_member(archive, "config.json", size=size))
                root = read_hdf5(read_member(archive, WEIGHTS, size=size))
            layers = list(_by_config(root, config["config"]["layers"]))
        else:
            root = read_hdf5(read_bytes(path))
            layers = list(_by_class(root)) if "layers" in root.groups else list(_by_name(root))
    found = [layer for layer in layers if layer.arrays]
    if not found:
        raise UserError("has no layers with weights", allowed=ALLOWED, file=path)
    return found


def _by_name(file: Group) -> Iterator[KerasLayer]:
    """Keras 1 and 2: attributes name the layers, and each layer's arrays."""
    root = file.groups.get("model_weights", file)
    if "layer_names" not in root.lists:
        held = cut(", ".join([*file.groups, *file.arrays][:5])) or "nothing"
        raise UserError(f"an HDF5 file without Keras's layers (it holds: {held})", allowed=ALLOWED)
    for group in root.lists["layer_names"]:
        found: dict[str, dict[str, np.ndarray]] = {}
        inside = root.within(group)
        for full in inside.lists["weight_names"]:
            parent, _, leaf = full.rpartition("/")
            layer = parent.rpartition("/")[2]
            found.setdefault(layer, {})[_array_name(leaf, group)] = inside.array(full)
        for layer, arrays in found.items():
            # a nested model is one group, whose weights carry their layers' names
            yield KerasLayer(layer if len(found) > 1 else group, _kind(arrays), arrays)


def _array_name(leaf: str, layer: str) -> str:
    # kernel:0 (Keras 2), kernel (Keras 3), block1_conv1_W_1:0 (Keras 1)
    leaf = re.sub(r"(_\d+)?(:\d+)?$", "", leaf).removeprefix(f"{layer}_")
    return OLD_NAMES.get(leaf, leaf)


def _kind(arrays: dict[str, np.ndarray]) -> str:
    if "pointwise_kernel" in arrays:
        return "separable_conv2d"
    if "depthwise_kernel" in arrays:
        return "depthwise_conv2d"
    if "kernel" in arrays:
        return "conv2d" if arrays["kernel"].ndim == 4 else "dense"
    return "batch_normalization" if "moving_mean" in arrays else "other"


def _by_config(group: Group, layers: list[dict[str, Any]]) -> Iterator[KerasLayer]:
    """Keras 3 with its config: layers of a class are numbered in the config's order."""
    seen: Counter[str] = Counter()
    for layer in layers:
        kind = _snake(layer["class_name"])
        key = f"{kind}_{seen[kind]}" if seen[kind] else kind
        seen[kind] += 1
        if key not in group.groups["layers"].groups:
            continue
        inside = group.groups["layers"].groups[key]
        if "layers" in layer["config"]:
            yield from _by_config(inside, layer["config"]["layers"])
        else:
            yield KerasLayer(layer["config"]["name"], kind, _numbered(inside, key, kind))


def _by_class(group: Group) -> Iterator[KerasLayer]:
    """Keras 3 without a config: classes and numbers only, nested models first."""
    layers = group.groups["layers"].groups
    keys = sorted(layers, key=_numbered_name)
    for key in keys:
        if "layers" in layers[key].groups:
            yield from _by_class(layers[key])
    for key in keys:
        kind = _numbered_name(key)[0]
        yield KerasLayer(key, kind, _numbered(layers[key], key, kind))


def _numbered_name(key: str) -> tuple[str, int]:
    kind, _, number = key.rpartition("_")
    return (kind, int(number)) if kind and number.isdigit() else (key, 0)


def _numbered(group: Group, key: str, kind: str) -> dict[str, np.ndarray]:
    arrays = group.groups["vars"].arrays if "vars" in group.groups else {}
    names = ARRAYS.get(kind, ())
    if kind in ARRAYS and len(arrays) > len(names):
        raise UserError(f"{key} has {len(arrays)} arrays; a {kind} has at most {len(names)}")
    return {name: arrays[str(index)] for index, name in enumerate(names[: len(arrays)])}


def _snake(name: str) -> str:
    # Conv2D -> conv2d, BatchNormalization -> batch_normalization, ReLU -> re_lu
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", name).lower()
