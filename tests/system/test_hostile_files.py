"""Files made to do harm, and mutants of good ones: success or one UserError with the file, and nothing else."""

from __future__ import annotations

import collections
import gzip
import json
import math
import os
import pickle
import re
import struct
import tarfile
import tracemalloc
import zipfile
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors
from support.shared_folder import shared
from torch import nn

from deeplab.cli.serve import _token
from deeplab.config import DeepLabConfig, backbone_config
from deeplab.data.tfrecord import decode_example, read_record, record_places
from deeplab.errors import UserError
from deeplab.evaluation.panoptic.coco import read_files as read_panoptic
from deeplab.importers import import_weights
from deeplab.importers.onnx.file import read_convolutions
from deeplab.importers.torch.file import read_torch_file
from deeplab.model.checkpoint import load
from deeplab.model.network import DeepLab
from deeplab.prediction.artefacts import artefact_path
from deeplab.prediction.scenes import Ledger
from deeplab.prediction.tiles import Gathered
from deeplab.system.reading import read_bytes, sha256_of
from deeplab.system.writing import hold_folder
from deeplab.train.recipe import read_recipe

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


def sparse_tar(path: Path) -> None:
    """A file of 8 TB, all of it holes."""
    member = tarfile.TarInfo("weights.pth")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\0" * 2
    header[483:495] = b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(1024))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def named(name: str) -> Callable[[Path], None]:
    """A tar archive with a file called so."""

    def make(path: Path) -> None:
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo(name))

    return make


ARCHIVES = {
    "holes": sparse_tar,
    "a name with zero bytes": named("a\0b.pth"),
    "a long name": named("a" * 5000),
    "zeros": lambda path: path.write_bytes(gzip.compress(bytes(100 << 20))),
}


@pytest.mark.parametrize("make", ARCHIVES.values(), ids=ARCHIVES)
def test_archives_are_unpacked_within_limits(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a.tar.gz")
    with pytest.raises(UserError) as caught:
        import_weights(tmp_path / "a.tar.gz")
    assert caught.value.file is not None and caught.value.file.startswith(str(tmp_path))


RECIPES = {
    "a date that is none": "name: 2024-13-45",
    "a number of 5000 digits": f"seed: {'9' * 5000}",
    "a number of 5000 hexadecimal digits": f"seed: 0x{'f' * 5000}",
    "deep nesting": "name: " + "[" * 5000,
    "aliases of aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghi")),
    "an alias of itself": "name: &a [*a]",
    "merged aliases": "a: &a {x: 1}\n"
    + "".join(
        f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}\n" for old, new in pairwise("abcdefghi")
    ),
    "a tag": "name: !!python/object/apply:os.system [exit]",
    "bytes": "name: !!binary x",
    "no UTF-8": b"name: \xff",
    "zero bytes": b"name: \0",
    "much": "name: " + "x" * 300_000,
    "a list": "- name",
    "keys of another kind": "1: a\n[2]: b\nnull: c",
    "an exponent": "optimise: {steps: 1e999}",
    "nothing": "",
}


@pytest.mark.parametrize("content", RECIPES.values(), ids=RECIPES)
def test_recipes_end_in_one_sentence(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        read_recipe(path, ["data.root=."])
    assert len(str(caught.value)) < 5000


def test_a_date_is_text_and_an_override_is_no_better_than_a_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: 2024-01-02\noptimise: {steps: 3}\nmodel: {backbone: {name: vgg16}}\n")
    assert read_recipe(path, ["data.root=."]).name == "2024-01-02"
    for value in ("9" * 5000, "[" * 5000, "&a [*a]", "!!binary x"):
        with pytest.raises(UserError, match="override 'seed="):
            read_recipe(path, ["data.root=.", f"seed={value}"])


def described(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A model without a description inside, and its config.json, changed, beside it."""
    model = DeepLab(DeepLabConfig(backbone=backbone_config("mobilenet_v2", width=0.25), num_classes=3))
    model.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(safetensors(model.state_dict()))
    said = json.loads((folder / "config.json").read_text())
    change(said)
    (folder / "config.json").write_text(json.dumps(said))
    return folder


def setting(*path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(said: dict[str, Any]) -> None:
        part = said
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = value

    return change


DESCRIPTIONS = {
    "wide": setting("architecture", "backbone", "width", value=64),
    "beyond 32 bits": setting("architecture", "context", "channels", value=2**31),
    "beyond 64 bits": setting("architecture", "backbone", "divisor", value=2**63),
    "many rates": setting("architecture", "context", "rates", value=[1] * 100_000),
    "not a number": setting("architecture", "head_norm", "eps", value=float("nan")),
    "many classes": setting("labels", "classes", value=["a"] * 100_000),
    "many unknown keys": setting("architecture", value={str(number): 1 for number in range(50_000)}),
    "deep": setting("provenance", value=json.loads("[" * 900 + "]" * 900)),
    "large": setting("provenance", value="x" * (2 << 20)),
}


@pytest.mark.parametrize("change", DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_descriptions_of_models_end_in_one_sentence(
    change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    folder = described(tmp_path / "model", change)
    if change is DESCRIPTIONS["deep"]:
        # which provenance may be
        assert load(folder).provenance
        return
    with pytest.raises(UserError, match=re.escape(str(folder))) as caught:
        load(folder)
    assert len(str(caught.value)) < 20_000


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("backbone.stem.conv.weight", math.nan, "NaN or infinity"),
        ("backbone.stem.norm.running_var", -1.0, "negative variances"),
    ],
)
def test_weights_that_are_none_are_refused(key: str, value: float, message: str, tmp_path: Path) -> None:
    model = DeepLab(DeepLabConfig(backbone=backbone_config("mobilenet_v2", width=0.25), num_classes=3))
    state = model.state_dict()
    name = next(name for name in state if name.endswith(key.rpartition(".")[2]) and state[name].dim())
    state[name].view(-1)[0] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))}.*{name} holds {message}"):
        load(tmp_path)


@pytest.mark.parametrize(
    "read",
    [
        read_recipe,
        _token,
        read_convolutions,
        lambda path: read_panoptic(path, path.parent),
        sha256_of,
    ],
    ids=["recipe", "token", "ONNX", "panoptic", "checksum"],
)
def test_what_is_no_file_is_not_waited_for(read: Callable[[Path], object], tmp_path: Path) -> None:
    """Pipes, devices and folders in the place of files."""
    pipe(tmp_path / "pipe")
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (tmp_path / "pipe", Path("/dev/zero"), folder):
        with pytest.raises(UserError, match=f"{path}: this is a"):
            read(path)


def test_a_file_takes_the_memory_of_its_bytes_not_of_what_it_may_have(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"small")
    tracemalloc.start()
    try:
        assert read_bytes(tmp_path / "small") == b"small"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_name_too_long_or_empty_ends_in_one_sentence(deeplab: Any, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)
    for words in (("import", long, "-o", tmp_path / "a"), ("panoptic", long, long, long, long)):
        code, _, err = deeplab(*words)
        assert code == 2 and err.startswith(f"deeplab: {long}: ") and "Traceback" not in err
    code, _, err = deeplab("panoptic", "", "", "", "")
    assert code == 2 and "this is a folder" in err


def test_what_is_no_file_has_no_model_or_weights(tmp_path: Path) -> None:
    pipe(tmp_path / "pipe")
    described(tmp_path / "model", lambda said: None)
    (tmp_path / "model" / "config.json").unlink()
    pipe(tmp_path / "model" / "config.json")
    with pytest.raises(UserError, match=r"config\.json: this is a pipe"):
        load(tmp_path / "model")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match=f"{path}: this is a pipe or a device"):
            import_weights(path)


def test_a_lock_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe(tmp_path / ".lock")
    with pytest.raises(UserError, match=r"\.lock: cannot be written"), hold_folder(tmp_path, "training"):
        pass
    (tmp_path / ".lock").unlink()
    (tmp_path / "letter").write_text("kept")
    (tmp_path / ".lock").symlink_to("letter")
    with hold_folder(tmp_path, "training"):
        assert (tmp_path / "letter").read_text() == "kept"


def test_what_a_scene_leaves_may_be_damaged(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "scene", "key")
    ledger.add(np.zeros((2, 3), np.uint8))
    ledger.keep(Gathered((torch.zeros(3),)))
    ledger.close()
    for name, content in (("ledger", b"1 2 3\n"), ("means.npz", b"PK"), ("ledger", b"\xff\n")):
        kept = (tmp_path / "scene" / name).read_bytes()
        (tmp_path / "scene" / name).write_bytes(content)
        with (
            pytest.raises(UserError, match=r"scene: holds what no scene left .* fix: remove it"),
            closing(Ledger(tmp_path / "scene", "key")) as again,
        ):
            again.gathered()
        (tmp_path / "scene" / name).write_bytes(kept)
    with closing(Ledger(tmp_path / "scene", "key")) as again:
        assert again.done == 1 and again.gathered().means[0].shape == (3,)


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"file": "../a.onnx"}', '{"file": "/a.onnx"}', '{"file": 3}', "[" * 9999]
)
def test_a_report_names_a_file_beside_it(content: str, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(content)
    with pytest.raises(UserError, match=r"export\.json: .* fix: give the file itself"):
        artefact_path(tmp_path)


def test_a_storage_that_unpacks_to_more_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor(b"K\x02\x85", b"K\x01\x85"), zipfile.ZIP_STORED)
        archive.writestr("archive/data/0", bytes(40 << 20))
    with pytest.raises(UserError, match=r"w\.pth.*unpacks to more than"):
        import_weights(tmp_path / "w.pth")


def read_shared(kind: str, path: Path, folder: Path) -> None:
    """A file that once went wrong, put where its kind lies."""
    if kind == "config_json":
        described(folder, lambda said: None)
        (folder / "config.json").write_bytes(path.read_bytes())
        load(folder)
    elif kind == "recipe":
        (folder / "r.yaml").write_bytes(path.read_bytes())
        read_recipe(folder / "r.yaml").model.config(21)
    elif kind == "tfrecord":
        (folder / "a.tfrecord").write_bytes(path.read_bytes())
        for start, length in record_places(folder / "a.tfrecord").tolist():
            decode_example(read_record(folder / "a.tfrecord", start, length))
    elif kind == "bundle_crc":
        (folder / "m.index").write_bytes(path.read_bytes())
        with (folder / "m.data-00000-of-00001").open("wb") as shard:
            shard.truncate(1 << 30)
        import_weights(folder / "m.index")
    else:
        (folder / "w").write_bytes(path.read_bytes())
        import_weights(folder / "w")


@pytest.mark.parametrize(
    "kind", ["pth", "pth_inner", "h5", "targz", "bundle_crc", "tfrecord", "recipe", "config_json"]
)
def test_files_that_once_went_wrong(kind: str, tmp_path: Path) -> None:
    if kind == "h5":
        pytest.importorskip("h5py", reason="the extra keras is not installed")
    for number, path in enumerate(sorted(shared(f"cases/hostile/{kind}").iterdir())):
        folder = tmp_path / str(number)
        folder.mkdir()
        with suppress(UserError):
            read_shared(kind, path, folder)
