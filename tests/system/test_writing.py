"""Every file that is written appears whole or not at all, whatever fails; and one sentence says so."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.crf_runs import CLASSES, small_network
from support.data_folders import grey, photo, text

import deeplab
from deeplab.cli.predict import _write_index
from deeplab.data.converting import write_plain
from deeplab.data.decoded import DecodedFiles
from deeplab.data.layouts.tar_shards import write_shards
from deeplab.data.layouts.tfrecord import write_split
from deeplab.data.opening import open_source
from deeplab.data.sbd import Plan, write_train_aug
from deeplab.errors import UserError
from deeplab.imaging.label_maps import save_label_map
from deeplab.imaging.palettes import pascal
from deeplab.imaging.png import save_png
from deeplab.model.checkpoint import save
from deeplab.prediction.runtimes.program import converted
from deeplab.system import writing
from deeplab.system.writing import Appended, remove_remains, whole_file, whole_folder, write_whole
from deeplab.train.run_folder.checkpointing import (
    BEFORE_NAME,
    CHECKPOINT_NAME,
    TrainingState,
    write_checkpoint,
)
from deeplab.train.run_folder.log import RunLog, TensorBoardLog
from deeplab.train.run_folder.record import write_record

# where files are written otherwise: archives unpacked into a temporary folder, compilers, downloads that go on
OWN_WAYS = {
    "importers/archive.py",
    "native/build.py",
    "system/download.py",
    "train/run_folder/folder.py",
    "system/writing.py",
    # into a folder of `whole_folder`, which is there once all of it is
    *(
        f"export/{name}.py"
        for name in ["coreml", "executorch", "layouts", "litert", "onnx", "openvino", "run"]
    ),
    "export/torch_export.py",
    # libraries that want a path: a hidden one beside the target, and `put_in_place`
    "imaging/label_rasters.py",
    "imaging/videos.py",
    # cuts the half line of a killed run off its ledger
    "prediction/scenes.py",
}


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): content_of(path) for path in folder.rglob("*") if path.is_file()}


def content_of(path: Path) -> bytes:
    """As it is stored; safetensors gives the keys of its header any order."""
    stored = path.read_bytes()
    if path.suffix != ".safetensors":
        return stored
    end = 8 + int.from_bytes(stored[:8], "little")
    return json.dumps(json.loads(stored[8:end]), sort_keys=True).encode() + stored[end:]


def pictures(root: Path, seed: int) -> Path:
    for name in ("a", "b"):
        photo(root / f"images/all/{name}.png", (4, 6), seed=seed)
        grey(root / f"masks/all/{name}.png", np.full((4, 6), seed % 3))
    text(root / "classes.txt", "background\ncat\ndog\n")
    return root


def shown(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def write_model(folder: Path, given: Path, seed: int) -> None:
    model = small_network(CLASSES)
    torch.nn.init.constant_(next(model.parameters()), seed)
    save(model, folder)


def write_program(folder: Path, given: Path, seed: int) -> None:
    def convert(path: Path) -> None:
        write_whole(path, "network")
        write_whole(path.with_suffix(".bin"), "weights")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPLAB_CACHE", str(folder))
        converted(small_network(CLASSES), "network.xml", runtime=f"some {seed}", convert=convert)


def write_decoded(folder: Path, given: Path, seed: int) -> None:
    pair = np.full((4, 6, 3), seed, np.uint8), np.full((4, 6), seed, np.uint8)
    files = str(given / "images/all/a.png"), str(given / "masks/all/a.png")
    DecodedFiles(folder, about=str(seed)).fetch(files, lambda: pair)


def write_log(folder: Path, given: Path, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    log = RunLog(folder)
    try:
        log.validation(seed, {"mean IoU": 0.5})
    finally:
        log.close()


def write_voc(folder: Path, given: Path, seed: int) -> None:
    masks = {name: given / f"masks/all/{name}.png" for name in ("a", "b")}
    write_train_aug(Plan(folder, masks, ["a"] * seed))


def state(seed: int) -> TrainingState:
    return TrainingState(seed, {"model/a": torch.full((9,), float(seed))}, {"recipe": {}})


Write = Callable[[Path, Path, int], object]
# folder to write into, a data set to read, and a number that the content depends on
WRITERS: dict[str, Write] = {
    "png": lambda folder, given, seed: save_png(shown(seed), folder / "a.png"),
    "label map": lambda folder, given, seed: save_label_map(
        np.full((4, 6), seed, np.uint8), folder / "a.png", palette=pascal()
    ),
    "predictions": lambda folder, given, seed: _write_index([{"photo": seed}], folder / "index.json"),
    "model": write_model,
    "checkpoint": lambda folder, given, seed: write_checkpoint(folder, state(seed)),
    "record": lambda folder, given, seed: write_record(folder, {"seed": seed}),
    "log": write_log,
    "program": write_program,
    "decoded": write_decoded,
    "plain": lambda folder, given, seed: write_plain(open_source(given, "all"), folder, "train"),
    "tfrecord": lambda folder, given, seed: write_split(open_source(given, "all"), folder, "train", shards=2),
    "train_aug": write_voc,
    "shards": lambda folder, given, seed: write_shards(open_source(given, "all"), folder, "train", samples=1),
}


class Disk:
    """Counts what is asked of it, and fails from the `last` request on: full, read-only, or Ctrl-C."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, last: int, failure: BaseException) -> None:
        self.asked, self.last, self.failure = 0, last, failure
        disk = self

        class File(io.FileIO):
            def write(self, data: bytes) -> int:
                disk.ask()
                return super().write(data)

        def opened(path: Path, mode: str, buffering: int = -1) -> io.RawIOBase | io.BufferedWriter:
            self.ask()
            return File(path, mode) if buffering == 0 else io.BufferedWriter(File(path, mode))

        monkeypatch.setattr(writing, "open", opened, raising=False)
        for name in ("fsync", "replace", "rename"):
            monkeypatch.setattr(os, name, self.asking(getattr(os, name)))

    def asking(self, function: Callable[..., None]) -> Callable[..., None]:
        def asked(*arguments: object) -> None:
            self.ask()
            function(*arguments)

        return asked

    def ask(self) -> None:
        self.asked += 1
        if self.asked >= self.last:
            raise self.failure


@pytest.mark.parametrize("name", WRITERS)
def test_old_or_new_and_nothing_between(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever request to the disk is the first to fail."""
    if name == "shards":
        pytest.importorskip("webdataset")
    write, given = WRITERS[name], [pictures(tmp_path / f"data{seed}", seed) for seed in (1, 2)]
    write(tmp_path / "new", given[1], 2)
    new = files_in(tmp_path / "new")
    step, finished = 0, False
    while not finished:
        step += 1
        folder = tmp_path / f"run{step}"
        write(folder, given[0], 1)
        old = files_in(folder)
        with monkeypatch.context() as patch:
            Disk(patch, last=step, failure=OSError(errno.ENOSPC, "No space left on device"))
            try:
                write(folder, given[1], 2)
                finished = True
            except UserError as error:
                assert "the disk is full" in error.what and "free some space there" in error.fix
                assert error.file and error.file.startswith(str(folder))
        for path, content in files_in(folder).items():
            # a log that grows has lost no earlier line; which run it is of, its first lines say
            replaced = old.get(CHECKPOINT_NAME) if path == BEFORE_NAME else None
            assert content in (old.get(path), new.get(path), replaced) or (
                name == "log" and new[path].startswith(content)
            )
        assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
        assert old.keys() <= files_in(folder).keys()
    assert step > 3


@pytest.mark.parametrize("name", WRITERS)
def test_ctrl_c_leaves_nothing_behind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "shards":
        pytest.importorskip("webdataset")
    given = pictures(tmp_path / "data", 1)
    WRITERS[name](tmp_path / "out", given, 1)
    before = files_in(tmp_path / "out")
    for step in (2, 3):
        with monkeypatch.context() as patch:
            Disk(patch, last=step, failure=KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                WRITERS[name](tmp_path / "out", given, 2)
        assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")]
        assert before.keys() <= files_in(tmp_path / "out").keys()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: place.mkdir(), r"out: cannot be written \(it is a folder\); fix: name a file$"),
        (os.mkfifo, r"out: cannot be written \(it is a device or a pipe\); fix: name a file$"),
        (lambda place: place.symlink_to("/dev/full"), r"it is a device or a pipe"),
    ],
    ids=["folder", "pipe", "device"],
)
def test_what_is_no_file_stays(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path / "out")
    kind = (tmp_path / "out").lstat().st_mode
    with pytest.raises(UserError, match=message):
        write_whole(tmp_path / "out", "text")
    assert (tmp_path / "out").lstat().st_mode == kind and len(list(tmp_path.iterdir())) == 1


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("kept")
    for place in (tmp_path / "runs/a.json", tmp_path / "runs/deep/a.json"):
        with pytest.raises(
            UserError, match=r"runs is a file, not a folder\); fix: move that file away, or name"
        ):
            write_whole(place, "text")
    with (
        pytest.raises(UserError, match="runs is a file, not a folder"),
        whole_folder(tmp_path / "runs/program"),
    ):
        pass
    assert files_in(tmp_path) == {"runs": b"kept"}


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            errno.EROFS,
            r"its file system is read-only\); fix: mount it to be written, or give another with -o",
        ),
        (errno.EACCES, r"no permission to write there\); fix: make .* writable, or give another with -o"),
        (errno.EDQUOT, r"the disk is full\); fix: free some space there, or give another with -o"),
        (errno.EIO, r"Input/output error\); fix: give another with -o"),
    ],
)
def test_each_reason_has_its_fix(
    number: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(monkeypatch, last=1, failure=OSError(number, os.strerror(number)))
    with pytest.raises(UserError, match=message):
        write_whole(tmp_path / "a.txt", "text", otherwise="give another with -o")
    assert files_in(tmp_path) == {}


def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("root may write everywhere")
    with pytest.raises(UserError, match="no permission to write there"):
        write_whole(tmp_path / "a.txt", "text")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_log_on_a_full_disk() -> None:
    log = Appended(Path("/dev/full"))
    with pytest.raises(UserError, match=r"/dev/full: cannot be written \(the disk is full\)"):
        log.write("line\n")
    log.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "deeplab-test", str(place)]
    try:
        ran = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system can be mounted: {error}")
    if ran.returncode:
        pytest.skip(f"no file system can be mounted: {ran.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full(small_disk: Path) -> None:
    write_whole(small_disk / "a.bin", b"a" * 100_000)
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    large = TrainingState(1, {"model/a": torch.zeros(100_000)}, {"recipe": {}})
    for write in (
        lambda: write_whole(small_disk / "a.bin", b"b" * 1_000_000),
        lambda: save_png(Image.fromarray(noise), small_disk / "a.png"),
        lambda: write_checkpoint(small_disk, large),
        lambda: DecodedFiles(small_disk).fetch((__file__, __file__), lambda: (noise, noise[..., 0])),
    ):
        with pytest.raises(UserError, match=r"the disk is full\); fix: free some space there"):
            write()
    assert files_in(small_disk) == {"a.bin": b"a" * 100_000}


def test_errors_about_other_files_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        write_whole(tmp_path / "a.txt", tmp_path / "absent")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a.txt") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert files_in(tmp_path) == {}


def test_names_as_long_as_they_may_be_and_links(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to("target")
    write_whole(tmp_path / "link", "new")
    write_whole(tmp_path / ("n" * 251 + ".txt"), "long")
    with pytest.raises(UserError, match="File name too long"):
        write_whole(tmp_path / ("n" * 252 + ".txt"), "longer")
    assert (tmp_path / "target").read_text() == "kept" and (tmp_path / "link").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 3


def test_another_process_may_be_quicker(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "program") as ours:
        (ours / "a").write_text("ours")
        (tmp_path / "program").mkdir()
        (tmp_path / "program/a").write_text("theirs")
    assert files_in(tmp_path) == {"program/a": b"theirs"}


def test_remains_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    kept = [tmp_path / "best/model.safetensors", tmp_path / ".lock"]
    for path in (*kept, tmp_path / ".0a.tmp", tmp_path / "best/.1b.tmp"):
        text(path, "x")
    remove_remains(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_the_log_keeps_what_it_holds(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in (1, 2):
        log.validation(step, {})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["validated_after"] for line in lines] == [1, 2]


def test_tensorboard_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread must not end, or the queue before it fills and training waits for ever."""
    pytest.importorskip("tensorboardX")
    board = TensorBoardLog(tmp_path)
    full = OSError(errno.ENOSPC, "No space left on device")
    board._events._file.close()
    monkeypatch.setattr(board._events._file, "_file", FullFile(full))
    with pytest.raises(UserError, match=r"events.*: cannot be written \(the disk is full\)"):
        for step in range(10_000):
            board.validation(step, {"mean IoU": 0.5, "IoU": {"cat": 0.5}})
    board.close()


class FullFile:
    def __init__(self, failure: OSError) -> None:
        self.failure = failure

    def write(self, content: bytes) -> int:
        raise self.failure

    def close(self) -> None:
        """Nothing is open."""


def test_no_module_writes_in_a_way_of_its_own() -> None:
    """Opening a file to write, renaming and saving are `deeplab.system.writing`'s alone."""
    root, found = Path(deeplab.__file__).parent, {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        own = [call.lineno for call in calls if name not in OWN_WAYS and _writes(call)]
        if own:
            found[name] = own
    assert found == {}


def _writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if name == "open":
        modes = [word.value for word in call.args[:2] if isinstance(word, ast.Constant)]
        return any(isinstance(mode, str) and len(mode) < 4 and set(mode) & set("wax+") for mode in modes)
    return name in ("write_text", "write_bytes", "mkstemp", "mkdtemp", "save_file", "copyfile") or (
        owner == "os" and name in ("replace", "rename")
    )
