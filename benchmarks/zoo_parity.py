"""The 24 archives of the reference's model zoo, each rebuilt with made-up weights and imported.

The archives themselves cannot be fetched by a test. What is in them is known: the variables' names and
shapes are those of the golden vectors (the reference's own lists), the number of classes is the data set's,
and slots, counters and quantisation ranges lie beside. Such a checkpoint is written, packed, imported without
a graph or a hint, and judged by two things: the config must be the preset's, and logits (of backbones: the
features) must be the reference's for these weights.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from families.weights import recipe_value
from support import tensorflow_files

from deeplab import DeepLab, DeepLabConfig
from deeplab.config import MobileNetConfig
from deeplab.importers import import_weights
from deeplab.importers.tensorflow.names import tensorflow_variables
from deeplab.presets import PRESETS, Preset
from deeplab.presets.reference import config_from_options
from deeplab.system.files.crc32c import crc32c

# layers that a preset shares with a golden case: backbone and width, kind of head, strides of its decoder
CASES = {
    ("mobilenet_v2", 0.5, "aspp", ()): "a06_mnv2_dm05_os16_plain_65_random",
    ("mobilenet_v2", 1.0, "aspp", ()): "a01_mnv2_os16_plain_65",
    ("xception41", 1.0, "aspp", (4,)): "c01_xc41_os16_dec4_65",
    ("xception65", 1.0, "aspp", (4,)): "c02_xc65_os16_dec4_97x129",
    ("xception71", 1.0, "aspp", (4,)): "c04_xc71_os16_dec4_65",
    ("xception71", 1.0, "dpc", (4,)): "e01_xc71_dpc_os16_dec4_129",
    ("mobilenet_v3_large_seg", 1.0, "aspp", (8,)): "b_mnv3_large_os32_257x289",
    ("mobilenet_v3_small_seg", 1.0, "aspp", (8,)): "b_mnv3_small_os32_257x289",
    ("mobilenet_edgetpu", 1.0, "aspp", ()): "b_edgetpu_os32_129",
    ("resnet50_beta", 1.0, "aspp", (4,)): "d02_r50beta_os16_mg124_aspp_97x129",
    ("resnet101_beta", 1.0, "aspp", (4,)): "d03_r101beta_os8_mg124_dec4_65",
}
CLASSIFIER = "logits/semantic/"
IMAGENET_CLASSES = 1001
Shapes = dict[str, tuple[int, ...]]


class ZooRow(NamedTuple):
    """One archive.

    Attributes:
        layers: the golden case that has them; '' where none has.
        config: 'equal' to the preset's, or the parts that differ.
        difference: the largest, in standard deviations of the reference's output; None without a case.
        values: numbers in the tensors that were filled.
    """

    archive: str
    preset: str
    layers: str
    config: str
    difference: float | None
    values: int


class Case(NamedTuple):
    """A golden case: its options, its variables and its arrays."""

    name: str
    options: dict[str, Any]
    shapes: Shapes
    data: Any


def zoo_rows(golden: Path) -> Iterator[ZooRow]:
    """All archives in the zoo's order; those with the same layers are measured once."""
    known: dict[tuple[str, bool], tuple] = {}
    for name, entry in PRESETS.items():
        if entry.archive:
            key = (f"{entry.build().model_dump_json()} {entry.dataset == 'ImageNet'}", "8bit" in name)
            if key not in known:
                known[key] = _measure(entry, golden, quantised=key[1])
            yield ZooRow(entry.archive, name, *known[key])


def _measure(entry: Preset, golden: Path, *, quantised: bool) -> tuple[str, str, float | None, int]:
    """`layers`, `config`, `difference` and `values` of an archive."""
    config, alone = entry.build(), entry.dataset == "ImageNet"
    case = _case(config, golden)
    with torch.device("meta"):
        own = {
            variable.name: variable.shape
            for key, variable in tensorflow_variables(DeepLab(config)).items()
            if key.startswith("backbone.") or not alone
        }
    if case is None or _of_classes(case.shapes, config.num_classes, own) != own:
        case = None
    arrays = {name: _value(name, shape, case) for name, shape in own.items()}
    with tempfile.TemporaryDirectory() as folder:
        model, report = import_weights(_archive(arrays, Path(folder), alone=alone, quantised=quantised))
    difference = None if case is None else _difference(model, case, alone=alone)
    wanted = config.backbone if alone else config
    found = model.config.backbone if alone else model.config
    return case.name if case else "", _compare(found, wanted), difference, report.values


def _case(config: DeepLabConfig, golden: Path) -> Case | None:
    strides = config.decoder.strides if config.decoder else ()
    width = config.backbone.width if isinstance(config.backbone, MobileNetConfig) else 1.0
    name = CASES.get((config.backbone.name, width, config.context.kind, tuple(strides)))
    if name is None:
        return None
    data = np.load(golden / f"{name}.npz")
    shapes = {key: tuple(shape) for key, shape in json.loads(str(data["variables"]))}
    return Case(name, json.loads(str(data["options"])), shapes, data)


def _of_classes(shapes: Shapes, classes: int, own: Shapes) -> Shapes:
    """The case's variables in the scopes of `own`, with as many classes."""
    scopes = {name.partition("/")[0] for name in own}
    return {
        name: (*shape[:-1], classes) if name.startswith(CLASSIFIER) else shape
        for name, shape in shapes.items()
        if name.partition("/")[0] in scopes
    }


def _value(name: str, shape: tuple[int, ...], case: Case | None) -> np.ndarray:
    """The golden recipe's; the case's classes again and again where the data set has more of them."""
    if case is None:
        return recipe_value(name, shape, 1.0)
    value = recipe_value(name, case.shapes[name], case.options["gain"])
    return np.ascontiguousarray(value[..., np.arange(shape[-1]) % value.shape[-1]])


def _archive(arrays: dict[str, np.ndarray], folder: Path, *, alone: bool, quantised: bool) -> Path:
    """A .tar.gz of a V2 checkpoint with `arrays` and what lies beside them in published ones."""
    name, value = next(iter(arrays.items()))
    beside = {"global_step": np.array(30000, np.int64), f"{name}/Momentum": 0 * value}
    if alone:
        scope = name.partition("/")[0]
        beside[f"{scope}/logits/weights"] = np.zeros((1, 1, 2048, IMAGENET_CLASSES), np.float32)
        beside[f"{scope}/logits/biases"] = np.zeros(IMAGENET_CLASSES, np.float32)
    if quantised:
        layer = name.rpartition("/")[0]
        for leaf in ("weights_quant/min", "weights_quant/max", "act_quant/min", "act_quant/max"):
            beside[f"{layer}/{leaf}"] = np.array(6.0, np.float32)
    # the tests' own check is slow on purpose (bit by bit); 160 MB need the fast one, which they compare to it
    tensorflow_files.plain_crc32c = crc32c
    tensorflow_files.write_checkpoint(folder / "model.ckpt", arrays | beside)
    packed = folder / "downloaded.tar.gz"
    with tarfile.open(packed, "w:gz", compresslevel=0) as archive:
        for path in sorted(folder.glob("model.ckpt.*")):
            archive.add(path, f"model/{path.name}")
    return packed


def _difference(model: DeepLab, case: Case, *, alone: bool) -> float:
    """The largest, between the imported weights in the case's own model and the reference."""
    config = config_from_options(case.options)
    image = torch.from_numpy(case.data["input"]).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        if alone:
            twin = DeepLab(config).eval()
            twin.backbone.load_state_dict(model.backbone.state_dict())
            found = twin.backbone(twin._normalise(image))[0]
            key = "ep_backbone"
        else:
            update: dict[str, Any] = {"num_classes": model.config.num_classes}
            twin = DeepLab(config.model_copy(update=update)).eval()
            twin.load_state_dict(model.state_dict())
            found = twin.low_resolution_logits(image)["semantic"]
            key = "logits"
    ours, golden = found[0].permute(1, 2, 0).numpy(), case.data[key]
    sampled = json.loads(str(case.data["meta"]))["sampled"].get(key)
    step = int(sampled["slice"].rstrip("]").rpartition(":")[2]) if sampled else 1
    ours = ours[..., ::step]
    shared = min(ours.shape[-1], golden.shape[-1])
    return float(np.abs(ours[..., :shared] - golden[..., :shared]).max() / golden.std())


def _compare(found: Any, wanted: Any) -> str:
    if found == wanted:
        return "equal"
    ours, theirs = found.model_dump(), wanted.model_dump()
    return "; ".join(f"{key} {ours[key]} for {theirs[key]}" for key in theirs if ours[key] != theirs[key])
