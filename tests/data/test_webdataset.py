"""WebDataset shards: read where they lie or from a server, written through the library, and read by it."""

import io
import json
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.data_folders import grey, photo, text
from support.object_store import s3
from support.training_runs import squares_recipe

from deeplab.cli.app import main
from deeplab.data.first_look import look_at
from deeplab.data.layouts import recognise
from deeplab.data.layouts.embedded import read_embedded_mask
from deeplab.data.layouts.tar_shards import local_file, pairs_in, write_shards
from deeplab.data.opening import open_source, split_names
from deeplab.data.storage import Storage
from deeplab.errors import UserError
from deeplab.train.recipe import Recipe
from deeplab.train.run import train


def png(values):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path):
    """train-000000.tar with a and b, train-000001.tar with c; photos are uniform, masks count up."""
    root = tmp_path / "shards"
    for number, names in enumerate((("x/a", "b"), ("c",))):
        files = {}
        for name in names:
            value = ord(name[-1])
            files[f"{name}.png"] = png(np.full((2, 3, 3), value))
            files[f"{name}.seg.png"] = png([[0, 1, 255], [0, value - 97, 1]])
            files[f"{name}.json"] = b"{}"
        write_tar(root / f"train-{number:06d}.tar", files)
    text(root / "classes.txt", "background\ncat\ndog\n")
    return root


def check_samples(source):
    assert [source.name(index) for index in range(3)] == ["x/a", "b", "c"] and source.classes[2] == "dog"
    for index, value in enumerate((97, 98, 99)):
        assert (source.photo(index) == value).all() and source.photo(index).shape == (2, 3, 3)
        assert source.label(index).tolist() == [[0, 1, 255], [0, index, 1]]


def test_local_shards(shards):
    assert recognise(shards) == "webdataset" and split_names(shards) == ("train",)
    source = open_source(shards, "train")
    check_samples(source)
    path = shards / "train-000001.tar"
    assert source.files(1)[0] == f"{shards / 'train-000000.tar'}:1"
    assert source.files(2) == (f"{path}:0", f"{path}:0 (mask)")


def test_a_jpeg_with_a_plain_png_mask(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (3, 2), (9, 9, 9)).save(picture, "JPEG")
    write_tar(
        tmp_path / "val-0.tar", {"k.jpg": picture.getvalue(), "k.png": png([[0, 0, 1]] * 2), "m.jpg": b"?"}
    )
    source = open_source(tmp_path, "val", Storage(names=("background", "cat")))
    assert len(source) == 1 and source.label(0).tolist() == [[0, 0, 1]] * 2
    assert source.missing == (f"photo or mask of {tmp_path / 'val-0.tar'}:m",)


def test_remote_shards_come_when_they_are_needed(shards, tmp_path, monkeypatch):
    pytest.importorskip("requests")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *words):
            asked.append(self.path)

    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(shards)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        listed = [{"url": f"{base}/train-{n:06d}.tar", "nsamples": count} for n, count in enumerate((2, 1))]
        text(tmp_path / "remote/train.json", json.dumps({"wids_version": 1, "shardlist": listed}))
        text(tmp_path / "remote/classes.txt", "background\ncat\ndog\n")
        source = open_source(tmp_path / "remote", "train")
        assert len(source) == 3 and source.files(1)[0] == f"{base}/train-000000.tar:1" and not asked
        # nor for a look at the start of a run
        assert look_at(source, photos=True).samples == 0 and not asked
        assert source.name(2) == "c" and set(asked) == {"/train-000001.tar"}
        check_samples(source)
        assert len(asked) == 2
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_wrong_indexes_are_named(shards):
    index = {"shardlist": [{"url": "train-000000.tar", "nsamples": 3}]}
    text(shards / "train.json", json.dumps(index))
    with pytest.raises(UserError, match=r"train-000000\.tar: has 2 samples .* where the index says 3"):
        open_source(shards, "train").photo(0)
    text(shards / "train.json", json.dumps({"shardlist": [{"url": "train-000000.tar"}]}))
    with pytest.raises(UserError, match=r"train\.json: is not of the form"):
        open_source(shards, "train")
    with pytest.raises(UserError, match=r"no test-.*splits found: train"):
        open_source(shards, "test")


def test_an_index_runs_no_commands(tmp_path):
    assert not local_file(f"pipe:touch {tmp_path / 'made'}").exists()
    for wrong in ("file:///etc/passwd", "pipe://touch x", "memory://a::file:///etc/passwd"):
        with pytest.raises(UserError, match=r"no address of a store .* allowed: s3://|chains addresses"):
            local_file(wrong)
    assert not (tmp_path / "made").exists()


def test_shards_in_a_store(shards, tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    for path in shards.iterdir():
        store.pipe_file(f"/data/{path.name}", path.read_bytes())
    with pytest.raises(
        UserError, match=r"memory://data: has no index of shards, .* fix: deeplab data webdataset"
    ):
        open_source("memory://data", "train")
    listed = [{"url": f"train-{n:06d}.tar", "nsamples": count} for n, count in enumerate((2, 1))]
    store.pipe_file("/data/train.json", json.dumps({"wids_version": 1, "shardlist": listed}).encode())
    # as a recipe has it
    root = Path("memory://data")
    assert split_names(root) == ("train",)
    source = open_source(root, "train")
    assert source.files(1)[0] == "memory://data/train-000000.tar:1" and not source.at_hand(0)
    check_samples(source)
    # once here, they are not asked for again
    store.rm("/data", recursive=True)
    check_samples(source)
    with pytest.raises(UserError, match=r"memory://data/gone.tar: is not there; fix: look at the names"):
        local_file("memory://data/gone.tar")


def test_training_from_a_store_is_that_from_a_folder(squares, tmp_path, monkeypatch):
    # not that of the kernels, which would be compiled again
    monkeypatch.setattr("deeplab.data.layouts.tar_shards.cache_folder", lambda: tmp_path / "cache")
    recipe = squares_recipe(squares, steps=2, batch_size=2)
    pytest.importorskip("webdataset", reason="it writes the shards")
    for split in ("train", "val"):
        write_shards(open_source(squares, split, recipe.data.storage), tmp_path / "shards", split, samples=1)
    weights = []
    with s3() as store:
        for path in (tmp_path / "shards").iterdir():
            store.put_file(str(path), f"photos/squares/{path.name}")
        for number, root in enumerate((tmp_path / "shards", "s3://photos/squares")):
            # workers are forks, with connections of their own
            values = squares_recipe(root, steps=2, batch_size=2, workers=number).model_dump(mode="json")
            values["data"]["names"] = ()
            train(Recipe.model_validate(values), tmp_path / f"run{number}")
            weights.append(load_file(tmp_path / f"run{number}" / "model.safetensors"))
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_damaged_shards_are_named(tmp_path):
    (tmp_path / "train-000000.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"train-000000\.tar: cannot be read as a tar"):
        pairs_in(tmp_path / "train-000000.tar")
    with pytest.raises(UserError, match=r"^s\.tar:a\.seg\.png: is no picture; fix: write the shard again$"):
        read_embedded_mask(b"no picture", "s.tar:a.seg.png")


def test_written_shards_read_alike_here_and_in_the_library(tmp_path, capsys):
    library = pytest.importorskip("webdataset.tariterators")
    root, out = tmp_path / "plain", tmp_path / "out"
    pixels = [
        photo(root / f"images/{name}", (4, 6), seed=seed) for seed, name in enumerate(("a.1.jpg", "b.png"))
    ]
    masks = [
        grey(root / f"masks/{name}.png", np.full((4, 6), value)) for value, name in enumerate(("a.1", "b"))
    ]
    text(root / "classes.txt", "background\ncat\n")
    text(root / "train.txt", "a.1\nb\n")
    with pytest.raises(SystemExit) as done:
        main(["data", "webdataset", str(root), str(out), "--samples", "1"])
    assert done.value.code == 0 and "2 samples in 2 shards" in capsys.readouterr().out
    assert recognise(out) == "webdataset"
    source = open_source(out, "train")
    for index in range(2):
        np.testing.assert_array_equal(source.photo(index), pixels[index])
        np.testing.assert_array_equal(source.label(index), masks[index])
    theirs = []
    for number in range(2):
        with (out / f"train-{number:06d}.tar").open("rb") as stream:
            theirs += library.group_by_keys(library.tar_file_expander([{"url": "x", "stream": stream}]))
    assert [record["__key__"] for record in theirs] == ["a_1", "b"]
    assert theirs[0]["jpg"] == (root / "images/a.1.jpg").read_bytes()
