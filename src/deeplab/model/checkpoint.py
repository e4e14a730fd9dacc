"""Self-describing checkpoints: one safetensors file whose metadata says everything else.

A directory (the Hugging Face Hub's convention) holds `model.safetensors` and the same description as
`config.json`. Either alone is enough for humans; loading needs the safetensors file only. Nothing is ever
unpickled.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import nn

from deeplab.config import DeepLabConfig, Strict, TimmConfig, parse_config
from deeplab.config.labels import LabelSpec
from deeplab.errors import UserError, require
from deeplab.model.eight_bit import EightBit, Grid
from deeplab.model.network import DeepLab
from deeplab.system.reading import cut, foreign, parse_json, read_text, shown
from deeplab.system.writing import write_whole

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
METADATA_KEY = "deeplab"
FORMAT = 1
LOGGER = logging.getLogger(__name__)
MAIN_CLASSIFIER = "classifiers.semantic."
EMBEDDED = ("animals", "street")
DEFAULT_MODEL = "animals"
# nothing else is asked of the network
HUB = "hf:"
# arrays beside the parameters: scales of 8-bit weights, by module path
WEIGHT_SCALE = "weight_scale:"


class EightBitDescription(Strict):
    """`DeepLab.eight_bit`, and its tables but for the scales of weights."""

    on: bool
    grids: dict[str, Grid]
    rescaled: tuple[str, ...] = ()


def describe(model: DeepLab) -> dict[str, Any]:
    """Everything about a model but its weights, as JSON values."""
    description = {
        "format": FORMAT,
        "architecture": model.config.to_json(),
        "labels": model.labels.model_dump(mode="json"),
        "provenance": model.provenance,
    }
    if model.eight_bit_tables is not None:
        tables = model.eight_bit_tables
        eight_bit = EightBitDescription(
            on=model.eight_bit, grids=dict(tables.grids), rescaled=tuple(sorted(tables.rescaled))
        )
        description["eight_bit"] = eight_bit.model_dump(mode="json")
    return description


def save(model: DeepLab, directory: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
    """Write `model.safetensors` and `config.json` into `directory`, each complete or not at all.

    Args:
        model: any DeepLab.
        directory: made if missing.
        dtype: type of the stored floats, such as torch.float16; None keeps the model's. 8-bit models need
            float32, which holds their biases exactly.

    Returns:
        the path of the safetensors file.

    Raises:
        UserError: a file cannot be written.
    """
    folder = Path(directory)
    description = json.dumps(describe(model), indent=2)
    tensors = {
        key: (value.to(dtype) if dtype and value.is_floating_point() else value).contiguous()
        for key, value in model.state_dict().items()
    }
    if model.eight_bit_tables is not None:
        scales = model.eight_bit_tables.weight_scales
        tensors |= {WEIGHT_SCALE + path: scale.contiguous() for path, scale in scales.items()}
    stored = to_bytes(tensors, metadata={METADATA_KEY: description, "format": "pt"})
    weights = write_whole(folder / WEIGHTS_NAME, stored)
    write_whole(folder / CONFIG_NAME, description + "\n")
    return weights


def load(
    name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    classes: Sequence[str] | None = None,
    output_stride: int | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> DeepLab:
    """A model in eval mode, in float32.

    Args:
        name_or_path: an embedded model's name, also where a folder is called so; `hf:owner/name`, a model of
            the Hugging Face Hub (extra `hub`); else a directory or a safetensors file. A `Path` is always one
            of these, and a string as `./animals`.
        classes: names of other classes: everything that does not depend on them is kept, the classifier
            starts anew with random weights. What was kept is logged, and noted in `provenance`. The same
            names change nothing.
        output_stride: run at this output stride instead of the native one.
        device: where the weights go.
        revision, cache_dir, token, local_files_only: passed to `huggingface_hub` for `hf:owner/name`.

    Raises:
        UserError: no such model, or a file that is not one of ours; the message names the file.
        ValueError: no class names.
    """
    hub = {"revision": revision, "cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    path = _locate(name_or_path, hub)
    with foreign(path, "this is not a readable saved model"):
        model = _read(path)
    if classes is not None and tuple(classes) != model.labels.classes:
        model = with_classes(model, classes)
    if output_stride is not None:
        model.output_stride = output_stride
    return model.to(device).eval()


def version_of(model: DeepLab) -> str:
    """Hexadecimal digits that change with what the model computes and what its labels mean."""
    digest = hashlib.blake2b(model.config.model_dump_json().encode(), digest_size=6)
    digest.update(model.labels.model_dump_json().encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def with_classes(model: DeepLab, classes: Sequence[str]) -> DeepLab:
    """A model of other classes with all weights of `model` that do not depend on the classes.

    That is all but the main output's classifier, whose weights are random, as in a new model, even where the
    number of classes is the same; a decoder whose output is the logits loses its class-wide layers. It
    computes in floating point, also where `model.eight_bit` is True.

    Args:
        model: is left as it is.
        classes: their names, in the order of the new channels.

    Returns:
        the new model, with `provenance["head_swap"]` saying what was kept and what is new.

    Raises:
        ValueError: no class names.
    """
    names = list(classes)
    if not names:
        raise ValueError("classes is empty; give the name of at least one class")
    changes: dict[str, Any] = {"num_classes": len(names)}
    if len(names) != len(model.labels.classes):
        changes["sigmoid"] = None
    if model.config.decoder and model.config.decoder.output_is_logits:
        changes["decoder"] = model.config.decoder.model_copy(update={"channels": len(names)})
    config = DeepLabConfig.model_validate(model.config.model_copy(update=changes).model_dump())
    swapped = DeepLab(config, LabelSpec.named(names, ignore_label=model.labels.ignore_label))
    own, given = swapped.state_dict(), model.state_dict()
    new = sorted(key for key in own if key.startswith(MAIN_CLASSIFIER) or own[key].shape != given[key].shape)
    swapped.load_state_dict(own | {key: value for key, value in given.items() if key not in new})
    swap = {"from": list(model.labels.classes), "to": names, "kept": len(own) - len(new), "new": new}
    swapped.provenance = {**model.provenance, "head_swap": swap}
    swapped.output_stride = model.output_stride
    LOGGER.warning(
        "%d classes instead of %d: %d tensors kept, %d new and random (%s); train before use",
        len(names),
        len(model.labels.classes),
        swap["kept"],
        len(new),
        ", ".join(new),
    )
    return swapped


def _locate(name_or_path: str | os.PathLike[str], hub: dict[str, Any]) -> Path:
    if isinstance(name_or_path, str):
        if name_or_path in EMBEDDED:
            return Path(str(resources.files("deeplab") / "models" / name_or_path / WEIGHTS_NAME))
        if name_or_path.startswith(HUB):
            return _from_hub(name_or_path.removeprefix(HUB), hub)
    path = Path(name_or_path)
    if path.is_dir():
        weights = path / WEIGHTS_NAME
        if weights.is_file():
            return weights
        found = ", ".join(sorted(item.name for item in path.iterdir())[:5]) or "nothing"
        raise UserError(
            f"{path} holds no {WEIGHTS_NAME} (it holds: {found}); give the folder of a saved model"
        )
    if path.is_file():
        return path
    beside = [str(item) for item in path.parent.iterdir() if item != path] if path.parent.is_dir() else []
    near = difflib.get_close_matches(str(path), [*EMBEDDED, *beside], n=3)
    raise UserError(
        f"no model {str(name_or_path)!r}: it is no file and no folder"
        + (f"; did you mean {' or '.join(near)}?" if near else ""),
        allowed=f"an embedded model ({', '.join(EMBEDDED)}), a folder with {WEIGHTS_NAME}, a .safetensors file, "
        f"or {HUB}owner/name for the Hugging Face Hub",
    )


def _from_hub(name: str, hub: dict[str, Any]) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"{HUB}{name} names no model of the Hub", allowed=f"{HUB}owner/name")
    library = require("huggingface_hub", extra="hub")
    try:
        return Path(library.hf_hub_download(name, WEIGHTS_NAME, **hub))
    except Exception as error:
        raise UserError(
            f"model {HUB}{name} could not be had from the Hub ({type(error).__name__}: {error})",
            fix="check the name and the connection, or give a local folder",
        ) from error


def _read(path: Path) -> DeepLab:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    description = _description(path, metadata)
    config = parse_config(DeepLabConfig, description.get("architecture", {}), f"{path}: architecture")
    labels = parse_config(LabelSpec, description.get("labels", {}), f"{path}: labels")
    # without memory, as the weights may not fit it; timm's backbones have values of their own that are not stored
    with torch.device("cpu" if isinstance(config.backbone, TimmConfig) else "meta"):
        model = DeepLab(config, labels)
    model.provenance = description.get("provenance", {})
    scales = {key: state.pop(key) for key in list(state) if key.startswith(WEIGHT_SCALE)}
    _fill(model, state, path)
    if "eight_bit" in description:
        _take_eight_bit(model, description["eight_bit"], scales, path)
    return model


def _description(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    text, beside = metadata.get(METADATA_KEY), path.parent / CONFIG_NAME
    if text is None:
        if not beside.exists():
            raise UserError(
                f"{path} has no {METADATA_KEY!r} metadata and no {CONFIG_NAME} beside it: it was not "
                "saved by this package",
                fix=f"deeplab import {path} -o DIR",
            )
        with foreign(beside, "cannot be read as a model's description"):
            description = parse_json(read_text(beside))
    else:
        with foreign(path, "its description cannot be read", fix="save the model again"):
            description = parse_json(text)
        if path.name == WEIGHTS_NAME and beside.is_file() and not _says(beside, description):
            warnings.warn(
                f"{beside} is not read: it says otherwise than {path.name}, which says itself what it is; "
                "to change that, load the model, change it and save it",
                stacklevel=2,
            )
    if not isinstance(description, dict) or "architecture" not in description:
        raise UserError(
            "its description has no 'architecture'", fix=f"deeplab import {path} -o DIR", file=path
        )
    if description.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {shown(description.get('format'))}; this version reads {FORMAT}: upgrade deeplab"
        )
    return description


def _says(file: Path, description: Any) -> bool:
    try:
        return bool(parse_json(read_text(file)) == description)
    # damaged in any way, it says something else
    except (OSError, ValueError, RecursionError):
        return False


def _fill(model: DeepLab, state: dict[str, torch.Tensor], path: Path) -> None:
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unknown or wrong:
        raise UserError(
            f"{path} does not fit its own description: missing {missing[:3]}, unknown {cut(str(unknown[:3]))}, "
            f"of another shape {wrong[:3]}; the file was changed after it was saved"
        )
    # copies: the file may change while the model lives; and of another type a number may be infinite
    filled = {key: value.to(own[key].dtype, copy=True) for key, value in state.items()}
    impossible = find_impossible(filled)
    if impossible:
        raise UserError(
            f"{impossible[0]}: with them every prediction would be nonsense",
            fix="save the model again, or train from an earlier checkpoint",
            file=path,
        )
    model.load_state_dict(filled, assign=True)
    model.restore_pixels()


def find_impossible(state: Mapping[str, torch.Tensor]) -> list[str]:
    """What no weights and statistics of a network can be: NaN, infinity, negative variances; one text a tensor."""
    found = [
        f"{key} holds NaN or infinity" for key, value in state.items() if not torch.isfinite(value).all()
    ]
    variances = {key: value for key, value in state.items() if key.endswith("running_var")}
    return found + [
        f"{key} holds negative variances" for key, value in variances.items() if (value < 0).any()
    ]


def _take_eight_bit(
    model: DeepLab, description: dict[str, Any], scales: dict[str, torch.Tensor], path: Path
) -> None:
    stated = parse_config(EightBitDescription, description, f"{path}: eight_bit")
    weight_scales = {key.removeprefix(WEIGHT_SCALE): scale for key, scale in scales.items()}
    convs = {
        name.removesuffix(".conv") for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    }
    if convs != weight_scales.keys() or not convs < stated.grids.keys():
        odd = sorted((convs ^ weight_scales.keys()) | (convs - stated.grids.keys()))[:3]
        raise UserError(
            f"its 8-bit scales do not fit the model: {odd}", fix="import the file again", file=path
        )
    model.eight_bit_tables = EightBit(stated.grids, weight_scales, frozenset(stated.rescaled))
    model.eight_bit = stated.on
