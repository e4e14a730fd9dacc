"""Files that hold no weights that can be imported: each is refused with what it seems to be and what to do.

All go through the command, under names that promise weights; nothing is written, and nothing in them is run.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from deeplab.cli.app import main

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 12345\n"
# ir_version 8, producer_name, producer_version, the beginning of a graph
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x90\x03\x0a\x20\x0a\x05input" + bytes(200)
SAVED_ALONE = r"torch\.save\(model\.state_dict\(\), 'weights\.pth'\)"


class Trap:
    """Unpickling it would make a file beside the weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.folder / "sprung"),))


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.pth", b"weights")


def png(path: Path) -> None:
    Image.new("RGB", (4, 4)).save(path, format="PNG")


def trapped_pickle(protocol: int) -> Callable[[Path], None]:
    return lambda path: (
        path.write_bytes(pickle.dumps({"model": Trap(path.parent)}, protocol=protocol)) and None
    )


def trapped_checkpoint(path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "hook": Trap(path.parent)}, path)


def short_safetensors(path: Path) -> None:
    save_file({"backbone.weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-100])


def other_safetensors(path: Path) -> None:
    save_file({"transformer.wte.weight": torch.zeros(10)}, path)


def folder(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("hello")


def escaping_archive(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("../sprung")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))


def hdf5_without_weights(path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra keras is not installed")
    with h5py.File(path, "w") as file:
        file.create_dataset("measurements", data=np.zeros(4))


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, w=np.zeros(3))


def content(data: bytes | str) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data.encode() if isinstance(data, str) else data) and None


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "zip": (zipped, r"seems to be a zip archive; fix: unpack it"),
    "PNG": (png, r"seems to be a PNG image; fix: give the file with the weights; photos go to"),
    "HTML": (content("\n<!-- proxy --><html><title>404</title>"), r"an HTML page .*fetch the file itself"),
    "HTML fragment": (content("<head><title>Sign in</title>"), r"an HTML page"),
    "empty": (content(b""), r"an empty file; fix: fetch it again"),
    **{
        f"pickle {protocol}": (trapped_pickle(protocol), rf"a Python pickle.*; fix: .*{SAVED_ALONE}")
        for protocol in range(6)
    },
    "checkpoint with code": (trapped_checkpoint, rf"holds Python objects \(.*mkdir\).*fix: .*{SAVED_ALONE}"),
    "safetensors cut short": (short_safetensors, r"damaged or cut short \(SafetensorError.*fetch it again"),
    "other safetensors": (
        other_safetensors,
        r"1 arrays \(transformer\.wte\.weight.* of no known source; known",
    ),
    "text": (content("epoch 1: loss 0.3\n"), r"seems to be text; fix: give the file with the weights"),
    "UTF-16 text": (content("loss 0.3\n".encode("utf-16")), r"seems to be text;"),
    "Chinese text": (content("模型权重不在这里。" * 50), r"seems to be text;"),
    "bytes": (content(bytes(range(256)) * 20), r"binary data of an unknown kind; fix: .*fetch it again"),
    "high bytes": (content(b"\xff\xd0" * 500), r"binary data of an unknown kind"),
    "folder": (folder, r"holds no files with weights \(notes\.txt\); give a folder or a file that does"),
    "tar that leads out": (escaping_archive, r"'\.\./sprung' would lie outside .*not unpacked; fetch"),
    "ONNX": (content(ONNX), r"seems to be an ONNX model; fix: give the weights that it was exported from"),
    "HDF5 without weights": (
        hdf5_without_weights,
        r"an HDF5 file without Keras.s layers .it holds: .*allowed: \.h5 weights",
    ),
    "Git LFS pointer": (content(LFS), r"a Git LFS pointer; .*fix: run `git lfs pull`"),
    "NumPy arrays": (arrays, r"a NumPy \.npz archive; fix: .*state dict"),
    "text, gzipped": (
        content(gzip.compress(b"hello" * 100)),
        r"is no \.tar\.gz archive: it seems to be text",
    ),
    "pipe": (os.mkfifo, r"is a pipe or a device; fix: give the path"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused_with_a_fix(
    make: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    source = sources / "deeplabv3_resnet101.pth"
    make(source)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(["import", str(source), "-o", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith(f"deeplab: {source}") and "Traceback" not in error
    assert re.search(message, error), error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checksum_goes_with_an_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["import", str(tmp_path / "a.pth"), "-o", str(tmp_path / "out"), "--sha256", "12ab"])
    assert stopped.value.code == 2
    assert "a.pth is a path: leave --sha256 away" in capsys.readouterr().err
