"""Files made to do harm, and mutants of good ones: success or one UserError with the file, and nothing else."""

from __future__ import annotations

import collections
import os
import pickle
import struct
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path, PosixPath

import numpy as np
import pytest
import torch
from torch import nn

from deeplab.errors import UserError
from deeplab.importers import import_weights
from deeplab.importers.torch.file import read_torch_file

SHARED = torch.arange(24, dtype=torch.float32)
PLAIN = {
    "float": SHARED.reshape(2, 3, 4),
    "turned": SHARED.reshape(4, 6).t(),
    "part": SHARED[4:10],
    "half": torch.ones(3, dtype=torch.float16),
    "bfloat": torch.ones(3, dtype=torch.bfloat16),
    "integer": torch.tensor([2**40, -1]),
    "byte": torch.arange(5, dtype=torch.uint8),
    "truth": torch.tensor([True, False, True]),
    "scalar": torch.tensor(4),
    "parameter": nn.Parameter(torch.ones(2, 2)),
}
BESIDE = {
    "optimiser": {
        "state": {0: {"momentum_buffer": torch.ones(3)}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    },
    "best": np.float64(0.5),
    "array": np.arange(3),
    "options": Namespace(lr=0.1),
    "folder": PosixPath("runs"),
    "set": {1, 2},
    "bytes": b"abc",
    "counts": collections.defaultdict(list, a=[1]),
    "size": torch.Size([1, 2]),
    "kind": torch.float16,
    "device": torch.device("cpu"),
    "large": 2**100,
    "model": collections.OrderedDict(PLAIN),
}


@pytest.mark.parametrize(
    "options",
    [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}],
    ids=["zip", "protocol 4", "before 1.6"],
)
def test_plain_weights_are_read_as_torch_wrote_them(options: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(BESIDE, path, **options)
    found = read_torch_file(path).weights
    assert found.keys() == PLAIN.keys()
    for name, value in PLAIN.items():
        assert torch.equal(found[name], value.detach().float() if value.is_floating_point() else value), name


def test_a_module_keeps_its_buffers_and_metadata(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    torch.save(model.state_dict(), tmp_path / "w.pth")
    found = read_torch_file(tmp_path / "w.pth").weights
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def zipped(path: Path, program: bytes, **storages: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for name, data in storages.items():
            archive.writestr(f"archive/data/{name}", data)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


START = b"\x80\x02"
FLOATS = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(4) + b"tQ"
DTYPE = b"cnumpy\ndtype\n(" + text("f8") + b"\x89\x88tR"


def tensor(shape: bytes, strides: bytes, offset: bytes = b"K\x00") -> bytes:
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + FLOATS + offset + shape + strides
    return START + b"}" + text("w") + rebuilt + b"\x89NtRs."


def hash_without_end() -> bytes:
    """A tuple of 2^60 parts, each a tuple of the one before, as a key."""
    return START + b"})" + b"q\x00h\x00\x86" * 60 + b"K\x01s."


PROGRAMS: dict[str, bytes] = {
    "NumPy's type with a state": START + b"}" + text("w") + DTYPE + b"(" + number(3) + text("<") + b"NtbQs.",
    "a type alone": START
    + b"}"
    + text("w")
    + DTYPE
    + b"("
    + number(3)
    + text("<")
    + b"N"
    + 2 * number(-1)
    + b"tbs.",
    "a function": START + b"cos\nsystem\n" + text("exit") + b"\x85R.",
    "a function of plain name": START + b"cbuiltins\ngetattr\n" + text("w") + b"\x85R.",
    "an endless key": hash_without_end(),
    "a large shape": tensor(number(1 << 30) + number(1 << 30) + b"\x86", b"K\x01K\x01\x86"),
    "a repeated value": tensor(number(1 << 30) + b"\x85", b"K\x00\x85"),
    "an offset beyond": tensor(b"K\x02\x85", b"K\x01\x85", number(1 << 30)),
    "a negative offset": tensor(b"K\x02\x85", b"K\x01\x85", number(-9)),
    "a negative stride": tensor(b"K\x02\x85", number(-1) + b"\x85"),
    "a part of itself": START + b"}q\x00" + text("model") + b"h\x00s.",
    "too many steps": START + b"N0" * 600_000 + b"N.",
    "deep": START + b"(" * 100_000 + b"t" * 100_000 + b".",
    "no end": START + b"}",
    "nothing": b"",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_of_pickles_end_in_one_sentence(program: bytes, tmp_path: Path) -> None:
    path = zipped(tmp_path / "w.pth", program, **{"0": bytes(16)})
    with pytest.raises(UserError) as caught:
        import_weights(path)
    assert caught.value.file == str(path)


def test_a_pickle_beside_its_weights_is_not_followed(tmp_path: Path) -> None:
    """What pickle itself would run."""

    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return os.mkdir, (str(tmp_path / "made"),)

    path = zipped(tmp_path / "w.pth", pickle.dumps({"model": Trap()}, protocol=2))
    with pytest.raises(UserError, match=r"holds Python objects \(posix.mkdir\)"):
        import_weights(path)
    assert not (tmp_path / "made").exists()


def test_a_storage_that_unpacks_to_more_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor(b"K\x02\x85", b"K\x01\x85"), zipfile.ZIP_STORED)
        archive.writestr("archive/data/0", bytes(40 << 20))
    with pytest.raises(UserError, match=r"w\.pth.*unpacks to more than"):
        import_weights(tmp_path / "w.pth")
