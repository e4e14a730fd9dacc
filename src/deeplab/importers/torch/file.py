"""PyTorch weight files (.pth, .pt, .bin, .safetensors) as tensors by name.

Pickled files are read as plain values (`deeplab.importers.torch.pickle`), so nothing in them is ever run; a file
that holds more than tensors and plain values is refused. Training checkpoints wrap the weights in dictionaries, data
parallelism and compilation put prefixes before the names, and some files are in half precision: all of that
comes off here.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import torch
from safetensors import safe_open

from deeplab.errors import UserError
from deeplab.importers.torch.pickle import SAVE_WEIGHTS, Stored, read_old_file, read_pickle
from deeplab.model.checkpoint import METADATA_KEY
from deeplab.system.reading import DAMAGED, cut, plain_file, read_member, zip_archive

# names that training scripts give the weights inside a checkpoint, the more telling first
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
# the share of names that must begin alike before that beginning counts as a prefix: Lightning's files
# have a few buffers of the training module beside the model's
MOST = 0.9
# the number that files of PyTorch before 1.6 begin with, as pickles store it
LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
ZIP = b"PK\x03\x04"
# of a name; the longest of published weights has 120
MOST_CHARACTERS = 512
# times that weights may be more than what is stored of them: those that are shared are views of one storage
SHARED = 4


class TorchFile(NamedTuple):
    """What a file holds.

    weights: float32 tensors (integers stay) by name, without wrappers and prefixes. meta: the file's other
    plain values, if any. notes: what came off, for the report.
    """

    path: Path
    weights: dict[str, torch.Tensor]
    meta: Mapping[str, Any]
    notes: tuple[str, ...]


def is_torch(head: bytes) -> bool:
    """Whether a file that begins with `head` (4 KiB) is PyTorch's or safetensors'."""
    if head.startswith(ZIP):
        return b"data.pkl" in head
    return head[2:].startswith(LEGACY_MAGIC) or _is_safetensors(head)


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30


def read_torch_file(path: Path) -> TorchFile:
    """The weights in the file at `path`.

    Raises:
        UserError: damaged, no weights in it, a model of this package already, or more than weights (says
            which object, and how to save the weights alone).
    """
    with plain_file(path) as file, ExitStack() as opened:
        head, size = file.read(9), os.fstat(file.fileno()).st_size
        if _is_safetensors(head):
            content, read = _read_safetensors(path), None
        elif head.startswith(ZIP):
            content, read = _read_archive(opened.enter_context(zip_archive(path)), size)
        else:
            file.seek(0)
            content, data = read_old_file(file, size)
            read = data.__getitem__
        if not isinstance(content, Mapping):
            raise UserError(
                f"holds a {type(content).__name__}, not weights by name", fix="give a state dict", file=path
            )
        found, notes = _unwrap(content)
        weights = dict(found) if read is None else _tensors(found, read, size)
    if not weights:
        keys = cut(", ".join(map(str, list(content)[:5]))) or "nothing"
        raise UserError(f"has no weights under any known key (it has: {keys}); give a state dict", file=path)
    odd = next(
        (name for name, value in weights.items() if len(name) > MOST_CHARACTERS or not value.numel()), None
    )
    if odd is not None:
        raise UserError(f"{cut(odd)} has no values, or a name of no end: the file is damaged", file=path)
    weights = _without_prefixes(weights, notes)
    halves = sorted({_kind(value) for value in weights.values() if _is_float(value)} - {"float32"})
    if halves:
        notes.append(f"stored as {', '.join(halves)}: read as float32")
    weights = {name: value.float() if _is_float(value) else value for name, value in weights.items()}
    meta = {key: value for key, value in content.items() if value is not found}
    return TorchFile(path, weights, {} if content is found else meta, tuple(notes))


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        if METADATA_KEY in (file.metadata() or {}):
            raise UserError(
                "this is a model of this package already: use it as it is, without import", file=path
            )
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def _read_archive(archive: ZipFile, size: int) -> tuple[Any, Callable[[str], bytearray]]:
    """The content of a .pth of `size` bytes, its tensors `Stored`, and what reads a storage by its key."""
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError("this is a TorchScript archive, a program, not weights", fix=SAVE_WEIGHTS)
    folder = next((name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None)
    if folder is None:
        raise UserError("this archive lists no weights: it is damaged or cut short", fix=DAMAGED)
    if folder + "byteorder" in names and read_member(archive, folder + "byteorder", size=size) != b"little":
        raise UserError("written on a big-endian machine", fix=SAVE_WEIGHTS)
    content = read_pickle(io.BytesIO(read_member(archive, folder + "data.pkl", size=size)), {})
    return content, lambda key: bytearray(read_member(archive, f"{folder}data/{key}", size=size))


def _tensors(
    found: Mapping[Any, Any], read: Callable[[str], bytearray], size: int
) -> dict[str, torch.Tensor]:
    """The tensors among the values of `found`, those of one storage views of the same bytes.

    Raises:
        UserError: they are more than a file of `size` bytes can hold.
    """
    stored = {str(name): value for name, value in found.items() if isinstance(value, Stored)}
    claimed = sum(value.count for value in stored.values())
    if claimed > SHARED * size:
        raise UserError(f"weights of {claimed} values in {size} bytes: the file is damaged", fix=DAMAGED)
    data: dict[str, bytearray] = {}
    for value in stored.values():
        if value.storage.key not in data:
            data[value.storage.key] = read(value.storage.key)
        if sum(map(len, data.values())) > SHARED * size:
            raise UserError(f"weights that unpack to more than {SHARED} times its size", fix=SAVE_WEIGHTS)
    return {name: value.of(data[value.storage.key]) for name, value in stored.items()}


def _unwrap(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """The innermost dictionary of weights, and notes on what was beside it."""
    notes: list[str] = []
    while len(notes) < len(WRAPPERS):
        key = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping) and content[key]), None)
        if key is None:
            return content, notes
        beside = [str(other) for other in content if other != key]
        notes.append(
            f"weights taken from {key!r}" + (f"; left aside: {cut(', '.join(beside))}" if beside else "")
        )
        content = content[key]
    raise UserError("weights inside of themselves, as it seems: the file is damaged", fix=DAMAGED)


def _without_prefixes(weights: dict[str, torch.Tensor], notes: list[str]) -> dict[str, torch.Tensor]:
    while True:
        counts = {prefix: sum(name.startswith(prefix) for name in weights) for prefix in PREFIXES}
        prefix = max(PREFIXES, key=lambda prefix: counts[prefix])
        if counts[prefix] < MOST * len(weights):
            return weights
        others = [name for name in weights if not name.startswith(prefix)]
        notes.append(
            f"prefix {prefix!r} taken off" + (f"; left aside: {cut(', '.join(others))}" if others else "")
        )
        weights = {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}


def _is_float(value: torch.Tensor) -> bool:
    return value.is_floating_point()


def _kind(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
