"""An exported .pt2 in PyTorch itself.

PyTorch runs what such a file says while it opens it: pickles in it, compiled libraries, text that stands for sizes,
functions by name. So the file is looked through before, and holds nothing but what our export writes. What is left is
arithmetic, of any size and length, and so another process is given it.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch

from deeplab.errors import UserError
from deeplab.prediction.artefacts.apart import KEY, Apart
from deeplab.prediction.artefacts.description import Artefact, described
from deeplab.system.reading import foreign, read_bytes

MEMBERS = re.compile(
    r"[^/]+/(models/model\.json|data/(weights/(weight_\d+|model_weights_config\.json)"
    r"|constants/(tensor_\d+|model_constants_config\.json)|sample_inputs/model\.pt)"
    rf"|extra/{KEY}|archive_format|archive_version|byteorder|\.data/\w+)"
)
PAYLOAD = re.compile(r"(weight|tensor)_\d+")
# without those that touch files
TARGET = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|torch\.sym_m(in|ax)"
    r"|_operator\.(add|sub|mul|neg|floordiv|truediv|mod|[lg][te]|eq|ne)"
)
# sizes as SymPy's own text, which is evaluated: calls of these on whole numbers
SIZE_CALLS = {
    "Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "FloorDiv", "CleanDiv", "IntTrueDiv", "Mod", "PythonMod",
    "CeilToInt", "FloorToInt", "Max", "Min",
}  # fmt: skip
SYMBOL = re.compile(r"[su]\d{1,6}")
# bytes of a part in JSON; the largest that we have seen of our own models has a fifth
LARGEST_PROGRAM = 8 << 20
# characters and digits; longer ones are no sizes, and take SymPy for ever
LONGEST_SIZE, LARGEST_NUMBER = 20_000, 1 << 31
# of powers, which grow by each other
MOST_POWERS = 8
SMALL_POWERS = {f"Integer({power})" for power in range(-4, 5)}
# of names, which become Python
NAME = re.compile(r"[\w.+:-]*")
CONTAINERS = re.compile(r'"type": "(?!builtins\.(?:tuple|list|dict)")')
# the photo that it was traced with, which PyTorch unpickles, whatever it is, and does without
EXAMPLE = "sample_inputs/model.pt"
# checks of sizes as Python, which we never ask for
UNUSED = "guards_code"
UNREADABLE, AGAIN = "PyTorch cannot read it", "export the model again"


def open_torch_export(path: Path) -> Artefact:
    """See `deeplab.prediction.artefacts.open_artefact`."""
    with foreign(path, UNREADABLE, fix=AGAIN):
        content, text = _plain(read_bytes(path))
    description = described(text, path)
    apart = Apart("PyTorch", path, extra="", threads=torch.get_num_threads(), content=content)
    return Artefact(description, apart.run)


def _plain(content: bytes) -> tuple[bytes, str | None]:
    """The parts of a file of which opening runs nothing but arithmetic, without the example photo; the description.

    They are written anew, as PyTorch's reader of archives might find others than Python's in the same bytes.

    Raises:
        UserError: it holds something else.
        Exception: it is no such file.
    """
    anew, text = io.BytesIO(), None
    with ZipFile(io.BytesIO(content)) as archive, ZipFile(anew, "w") as out:
        members = archive.infolist()
        names = {member.filename for member in members}
        _require(
            len({name.partition("/")[0] for name in names}) == 1 and len(names) == len(members), "parts twice"
        )
        for member in members:
            name = member.filename
            _require(MEMBERS.fullmatch(name) is not None, f"the part {name[:80]!r}")
            # so that none unpacks to more than is there
            _require(member.compress_type == ZIP_STORED, "packed parts")
            data = b"" if name.endswith(EXAMPLE) else archive.read(name)
            _require(not name.endswith(".json") or len(data) <= LARGEST_PROGRAM, f"{len(data)} bytes of JSON")
            if name.endswith("_config.json"):
                for payload in json.loads(data)["config"].values():
                    _require(payload["use_pickle"] is False, "a pickle in the place of a tensor")
                    _require(
                        PAYLOAD.fullmatch(payload["path_name"]) is not None,
                        "an object in the place of a tensor",
                    )
            elif name.endswith("models/model.json"):
                for key, value in _texts(json.loads(data)):
                    _refuse_calls(key, value)
            elif name.endswith(f"/extra/{KEY}"):
                text = data.decode()
            out.writestr(name, data)
    return anew.getvalue(), text


def _refuse_calls(key: str, text: str) -> None:
    if key == "target":
        _require(TARGET.fullmatch(text) is not None, f"a call of {text[:80]!r}")
    elif key == "expr_str":
        _require(_is_size(text), f"the size {text[:80]!r}")
    elif key in ("in_spec", "out_spec"):
        _require(CONTAINERS.search(text) is None, "a container of another kind")
    elif key != UNUSED:
        _require(NAME.fullmatch(text) is not None, f"the name {text[:80]!r}")


def _is_size(text: str) -> bool:
    """Whether text is arithmetic that ends, as calls of `SIZE_CALLS` on names of sizes and small numbers."""
    if len(text) > LONGEST_SIZE:
        return False
    powers = 0
    for node in ast.walk(ast.parse(text.strip(), mode="eval")):
        match node:
            case ast.Call(func=ast.Name(id=name), args=arguments):
                powers += name == "Pow"
                if name not in SIZE_CALLS or (name == "Pow" and not _is_small_power(arguments)):
                    return False
            case ast.Constant(value=value):
                known = SYMBOL.fullmatch(value) if isinstance(value, str) else isinstance(value, int)
                if not known or (isinstance(value, int) and value > LARGEST_NUMBER):
                    return False
            case ast.Name(id=name):
                if name not in SIZE_CALLS and not SYMBOL.fullmatch(name):
                    return False
            case ast.keyword(arg="positive" | "integer") | ast.UnaryOp(op=ast.USub()):
                pass
            case ast.Expression() | ast.Load() | ast.USub():
                pass
            case _:
                return False
    return powers <= MOST_POWERS


def _is_small_power(arguments: list[ast.expr]) -> bool:
    return len(arguments) == 2 and ast.unparse(arguments[1]) in SMALL_POWERS


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts in JSON, each with the key that it stands under, and the keys."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield "", name
            yield from _texts(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, key)
    elif isinstance(value, str):
        yield key, value


def _require(plain: bool, what: str) -> None:
    if not plain:
        raise UserError(f"holds {what}, which our export does not write and PyTorch might run", fix=AGAIN)
