"""PyTorch's pickles as plain values: nothing in them is called, no class of theirs is looked up.

A pickle is a program for a stack. Here its steps (the standard library's `pickletools` reads them) make numbers,
texts, lists, dictionaries, and descriptions of tensors, and any other object that it names is refused. A tensor is
a place in a storage, compared with what the storage holds before anything is allocated. Formats: zip archives since
PyTorch 1.6; before, pickles one after the other and the storages' bytes behind them.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import torch

from deeplab.errors import UserError

# of one pickle, some seconds; a checkpoint with its optimiser has a tenth of it
MOST_STEPS = 1_000_000
MOST_SIDES = 8
OLD_VERSION = 1001
SAVE_WEIGHTS = "where it was made, torch.save(model.state_dict(), 'weights.pth')"
STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
# steps that put their argument on the stack, a constant, or something empty
VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
}  # fmt: skip
MARK = object()
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": MARK}
EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}


class Storage(NamedTuple):
    """Values one after the other: the name of their bytes in the file, and their kind."""

    key: str
    dtype: torch.dtype


class Stored(NamedTuple):
    """A tensor as a file describes it: the place of each value follows from offset and strides."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def count(self) -> int:
        """Its number of values."""
        return math.prod(self.shape)

    def of(self, data: bytearray) -> torch.Tensor:
        """The tensor itself, a view of the bytes of its storage.

        Raises:
            UserError: it reaches beyond them, or has more values than they hold, or none.
        """
        held = len(data) // self.dtype.itemsize
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((side - 1) * step for side, step in steps)
        if not 0 < self.count <= held or last >= held:
            raise UserError(
                f"a tensor of shape {list(self.shape)} in a storage of {held} values: it is damaged"
            )
        truth = self.dtype == torch.bool
        values = torch.frombuffer(data, dtype=torch.uint8 if truth else self.dtype, count=held)
        return torch.as_strided(values != 0 if truth else values, self.shape, self.strides, self.offset)


def read_pickle(file: BinaryIO, storages: dict[str, Storage]) -> Any:
    """The value of the pickle at the file's position, which moves behind it; tensors are `Stored`.

    Args:
        file: open for reading.
        storages: those that it names are added, by key.

    Raises:
        UserError: an object that is not a plain value, named; a pickle of more steps than weights need.
        Exception: of many kinds, for what is no whole pickle.
    """
    machine = _Machine(storages)
    for count, (step, argument, _) in enumerate(pickletools.genops(file)):
        if count == MOST_STEPS:
            raise UserError(
                f"a pickle of more than {MOST_STEPS} steps, which no weights need", fix=SAVE_WEIGHTS
            )
        machine.run(step.name, argument)
    return machine.stack.pop()


def read_old_file(file: BinaryIO, size: int) -> tuple[Any, dict[str, bytearray]]:
    """The value in a file of PyTorch before 1.6 of `size` bytes, and the bytes of its storages by key.

    Raises:
        UserError: another version of the format, or a storage beyond the end of the file; else as `read_pickle`.
    """
    storages: dict[str, Storage] = {}
    _magic, version, machine, content, keys = (read_pickle(file, storages) for _ in range(5))
    if version != OLD_VERSION or not machine["little_endian"]:
        raise UserError(
            "an unknown version of PyTorch's old format, or a big-endian machine's", fix=SAVE_WEIGHTS
        )
    data = {}
    for key in keys:
        length = int.from_bytes(file.read(8), "little") * storages[key].dtype.itemsize
        if length > size - file.tell():
            raise UserError(f"a storage of {length} bytes goes beyond the end of the file: it is cut short")
        data[key] = bytearray(file.read(length))
    return content, data


def _tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Stored:
    shape, strides = tuple(shape), tuple(strides)
    numbers = (offset, *shape, *strides)
    fits = len(shape) == len(strides) <= MOST_SIDES and all(type(n) is int and n >= 0 for n in numbers)
    if not fits or not isinstance(storage, Storage):
        raise UserError("a tensor without a shape or a storage: the file is damaged")
    return Stored(storage, storage.dtype, offset, shape, strides)


def _typed_tensor(
    storage: Storage,
    offset: int,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    dtype: torch.dtype,
    *_: Any,
) -> Stored:
    if dtype not in STORAGES.values():
        raise UserError("a tensor of an unknown kind of numbers: the file is damaged")
    return _tensor(storage, offset, shape, strides)._replace(dtype=dtype)


def _any_tensor(make: Any, kind: Any, values: Any, *_: Any) -> Stored:
    if make is not _tensor and make is not _typed_tensor:
        raise UserError("a tensor of a kind that weights never are", fix=SAVE_WEIGHTS)
    found: Stored = make(*values)
    return found


def _same(tensor: Any, *_: Any) -> Any:
    """A parameter is its tensor."""
    return tensor


def _sides(sides: Any = ()) -> tuple[Any, ...]:
    return tuple(sides)


def _dictionary(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    """Python 2 wrote an OrderedDict with its pairs; those of today, and all other kinds, are filled afterwards."""
    found: dict[Any, Any] = {}
    for key, value in pairs if isinstance(pairs, list | tuple) else ():
        if key is not None and type(key) not in (str, int, float, bool, bytes):
            # such keys are hashed and compared, which a few bytes can make endless
            raise UserError(f"a dictionary with a {type(key).__name__} as a key", fix=SAVE_WEIGHTS)
        found[key] = value
    return found


def _aside(*_: Any) -> None:
    """What stands beside weights and is not needed: NumPy's numbers, paths, options, sets."""


def _known() -> dict[str, Any]:
    """What a pickle may name, and what stands for it here."""
    plain = (
        "set",
        "frozenset",
        "list",
        "tuple",
        "bytearray",
        "bytes",
        "complex",
        "int",
        "float",
        "str",
        "bool",
    )
    numpy = [
        f"{module}.multiarray.{name}" for module in ("core", "_core") for name in ("scalar", "_reconstruct")
    ]
    others = (
        "numpy.dtype",
        "numpy.ndarray",
        "_codecs.encode",
        "torch.Tensor",
        "torch.device",
        "argparse.Namespace",
    )
    aside = [f"{module}.{name}" for module in ("builtins", "__builtin__") for name in plain]
    aside += [f"pathlib.{name}" for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")]
    aside += [*others, *(f"numpy.{name}" for name in numpy)]
    dictionaries = ("collections.OrderedDict", "collections.Counter", "builtins.dict", "__builtin__.dict")
    rebuilds: dict[str, Callable[..., Any]] = {
        "_rebuild_tensor": _tensor,
        "_rebuild_tensor_v2": _tensor,
        "_rebuild_tensor_v3": _typed_tensor,
        "_rebuild_parameter": _same,
        "_rebuild_parameter_with_state": _same,
    }
    return {
        **dict.fromkeys(aside, _aside),
        **dict.fromkeys(dictionaries, _dictionary),
        # its argument is what missing keys begin with
        "collections.defaultdict": lambda *_: {},
        **{f"torch._utils.{name}": make for name, make in rebuilds.items()},
        "torch._tensor._rebuild_from_type_v2": _any_tensor,
        "torch.nn.parameter.Parameter": _same,
        "torch.Size": _sides,
        "torch.storage.UntypedStorage": torch.uint8,
        **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
        **{str(dtype): dtype for dtype in STORAGES.values()},
    }


KNOWN = _known()


class _Machine:
    """The stack and the memory of one pickle."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}
        self.storages = storages

    def run(self, step: str, argument: Any) -> None:
        """One step, by its name in `pickletools`."""
        stack = self.stack
        if step in VALUES:
            stack.append(argument)
        elif step in CONSTANTS:
            stack.append(CONSTANTS[step])
        elif step in EMPTY:
            stack.append(EMPTY[step]())
        elif step in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memory[argument])
        elif step in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memory[argument] = stack[-1]
        elif step == "MEMOIZE":
            self.memory[len(self.memory)] = stack[-1]
        elif step in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(step[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif step in ("TUPLE", "LIST", "DICT", "FROZENSET"):
            items = self._since_mark()
            made = {"TUPLE": tuple, "DICT": _of_pairs}.get(step, list)
            stack.append(made(items))
        elif step in ("APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"):
            self._fill(step)
        elif step in ("GLOBAL", "STACK_GLOBAL"):
            self._name(argument)
        elif step in ("REDUCE", "NEWOBJ"):
            values, make = stack.pop(), stack.pop()
            if type(values) is not tuple or not any(make is known for known in KNOWN.values()):
                raise UserError("an object made of what is no class: the file is damaged")
            stack.append(make(*values))
        elif step == "BINPERSID":
            self._storage()
        elif step in ("BUILD", "POP"):
            # attributes for what was made: nothing here has any
            stack.pop()
        elif step not in ("PROTO", "FRAME", "STOP"):
            raise UserError(f"a pickle with the step {step}, which no weights need", fix=SAVE_WEIGHTS)

    def _fill(self, step: str) -> None:
        if step.endswith("S"):
            items = self._since_mark()
        else:
            items = [self.stack.pop() for _ in range(2 if step == "SETITEM" else 1)][::-1]
        target = self.stack[-1]
        if target is not None and step.startswith("SETITEM"):
            target.update(_of_pairs(items))
        elif target is not None:
            target.extend(items)

    def _name(self, argument: str | None) -> None:
        if argument is None:
            argument, module = self.stack.pop(), self.stack.pop()
            argument = f"{module:s} {argument:s}"
        name = argument.replace(" ", ".", 1)
        if name not in KNOWN:
            raise UserError(
                f"holds Python objects ({name}), not weights alone, and loading them would run code from the file",
                fix=SAVE_WEIGHTS,
            )
        self.stack.append(KNOWN[name])

    def _storage(self) -> None:
        kind, dtype, key, _device, _length, *view = self.stack.pop()
        if kind != "storage" or dtype not in STORAGES.values() or type(key) is not str or any(view):
            raise UserError("a storage of a kind that weights never have: the file is damaged")
        self.storages[key] = Storage(key, dtype)
        self.stack.append(self.storages[key])

    def _since_mark(self) -> list[Any]:
        first = next(place for place in range(len(self.stack) - 1, -1, -1) if self.stack[place] is MARK)
        items = self.stack[first + 1 :]
        del self.stack[first:]
        return items


def _of_pairs(items: list[Any]) -> dict[Any, Any]:
    return _dictionary(list(zip(items[::2], items[1::2], strict=True)))
