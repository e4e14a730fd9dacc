"""Jobs in shards: one line for each photo, whoever is killed when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab.cluster.shards import KILLER, Job
from deeplab.cluster.worker import label_shard
from deeplab.errors import UserError
from deeplab.model.checkpoint import load
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor

# labels a shard in a process of its own, and writes down each photo that it begins; "kill" takes the process with it,
# "once" at the first try alone
WORKER = """
import os, signal, sys
from pathlib import Path
from deeplab.cluster.shards import Job
from deeplab.errors import UserError

target, count, number, begun = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])

def label(photo):
    with begun.open("a") as file:
        file.write(photo.name + "\\n")
    if photo.name == "kill" or (photo.name == "once" and begun.read_text().split().count("once") == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if photo.name == "broken":
        raise UserError("no photo", file=photo)
    return photo.name.encode()

Job(target, count).label_shard(number, label)
"""


def work(job: Job, number: int, begun: Path) -> int:
    """As an engine does: again, as long as the process dies; how often it died."""
    for deaths in range(9):
        words = [sys.executable, "-c", WORKER, job.target, job.count, number, begun]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        ended = subprocess.run(list(map(str, words)), env=environment).returncode
        if ended == 0:
            return deaths
        assert ended == -signal.SIGKILL
    raise AssertionError("a photo kills its process without end")


def contents(job: Job) -> dict[str, bytes]:
    """Label maps by the photo that the index says they are of."""
    found = {}
    for line in job.lines():
        if "labels" in line:
            with tarfile.open(job.target / line["tar"]) as tar:
                found[line["photo"]] = tar.extractfile(line["labels"]).read()
    return found


def test_killers_and_broken_photos_end_as_dead_letters(tmp_path: Path) -> None:
    names = ["a", "kill", "b", "broken", "once", "c", "d"]
    job = Job.planned([Path(name) for name in names], tmp_path / "out", shard_size=5, about={})
    assert job.count == 2
    deaths = [work(job, number, tmp_path / "begun") for number in range(job.count)]
    # twice by one, once by the other
    assert deaths == [3, 0]
    lines = list(job.lines())
    assert [line["photo"] for line in lines] == names
    errors = {line["photo"]: line["error"] for line in lines if "error" in line}
    assert errors == {"kill": KILLER, "broken": "broken: no photo"}
    assert contents(job) == {name: name.encode() for name in names if name not in errors}
    # nothing was begun twice but what killed its process
    begun = (tmp_path / "begun").read_text().split()
    assert sorted(begun) == sorted([*names, "kill", "once"])
    job.finish()
    assert {path.name for path in job.target.iterdir()} == {
        f"labels-{number:05}.{kind}" for number in (0, 1) for kind in ("tar", "jsonl")
    }


def test_a_job_goes_on_with_the_shards_that_are_open(tmp_path: Path) -> None:
    photos = [Path(str(number)) for number in range(7)]
    job = Job.planned(photos, tmp_path, shard_size=3, about={"model": "m"})
    done: list[str] = []

    def label(photo: Path) -> bytes:
        done.append(photo.name)
        return b""

    job.label_shard(1, label)

    def stop(photo: Path) -> bytes:
        if photo.name == "2":
            raise KeyboardInterrupt
        return label(photo)

    with pytest.raises(KeyboardInterrupt):
        job.label_shard(0, stop)
    again = Job.planned(photos, tmp_path, shard_size=3, about={"model": "m"})
    assert again.open_shards() == [0, 2]
    for number in again.open_shards():
        again.label_shard(number, label)
    assert done == ["3", "4", "5", "0", "1", "2", "6"]
    with pytest.raises(UserError, match="a job that is not finished"):
        Job.planned(photos, tmp_path, shard_size=3, about={"model": "another"})
    again.finish()
    # a finished one is no hindrance, and its labels are not taken for the new one's
    assert Job.planned(photos, tmp_path, shard_size=3, about={"model": "another"}).open_shards() == [0, 1, 2]


def test_what_cannot_be_written_is_no_fault_of_the_photo(tmp_path: Path, monkeypatch) -> None:
    """And names that are long, or no UTF-8, are written."""
    photos = [tmp_path / ("a" * 250), tmp_path / os.fsdecode(b"bad\xff"), tmp_path / ("\u732b" * 80)]
    job = Job.planned(photos, tmp_path / "out", shard_size=5, about={})
    with monkeypatch.context() as patched:

        def full(path: Path, content: bytes) -> None:
            raise UserError("cannot be written (the disk is full)", file=path)

        patched.setattr("deeplab.cluster.shards.write_whole", full)
        with pytest.raises(UserError, match="the disk is full"):
            job.label_shard(0, label=lambda photo: b"x")
    assert job.open_shards() == [0]
    job.label_shard(0, label=lambda photo: os.fsencode(photo.name))
    assert contents(job) == {str(photo): os.fsencode(photo.name) for photo in photos}


def test_a_ledger_that_was_cut_off(tmp_path: Path) -> None:
    photos = [Path(name) for name in "abc"]
    job = Job.planned(photos, tmp_path, shard_size=3, about={})

    def stop(photo: Path) -> bytes:
        if photo.name == "c":
            raise KeyboardInterrupt
        return photo.name.encode()

    with pytest.raises(KeyboardInterrupt):
        job.label_shard(0, stop)
    ledger = tmp_path / ".job" / "00000" / "ledger"
    ledger.write_bytes(ledger.read_bytes() + b'{"place": 2, "pho')
    job.label_shard(0, lambda photo: photo.name.encode())
    assert contents(job) == {name: name.encode() for name in "abc"}


def test_labels_are_those_of_predict(squares_model, squares: Path, tmp_path: Path) -> None:
    photos = sorted((squares / "JPEGImages").iterdir())
    job = Job.planned(photos, tmp_path, shard_size=2, about={})
    for number in range(job.count):
        label_shard(job, number, str(squares_model), Labelling(device="cpu"))
    predictor = Predictor.of(load(squares_model), Labelling(device="cpu"))
    found = contents(job)
    for photo in photos:
        with Image.open(BytesIO(found[str(photo)])) as labels:
            assert labels.mode == "P"
            assert (np.array(labels) == predictor.labels_of(predictor.photo(photo)).numpy()).all()


def test_a_scene_is_a_dead_letter_and_no_photo(squares_model, squares: Path, tmp_path: Path) -> None:
    photo = min((squares / "JPEGImages").iterdir())
    with Image.open(photo) as image:
        image.save(tmp_path / "scene.tif", big_tiff=True)
    job = Job.planned([photo, tmp_path / "scene.tif"], tmp_path / "out", shard_size=2, about={})
    label_shard(job, 0, str(squares_model), Labelling(device="cpu"))
    (labelled, dead) = job.lines()
    assert "labels" in labelled and "without --cluster" in dead["error"]


def test_ray_labels_all_and_names_what_failed(deeplab, squares_model, squares: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the engine is the extra ray")
    folder = tmp_path / "photos"
    folder.mkdir()
    photos = sorted((squares / "JPEGImages").iterdir())
    for photo in photos:
        (folder / photo.name).write_bytes(photo.read_bytes())
    (folder / "broken.png").write_text("no photo")
    words = (
        "-m",
        squares_model,
        "-o",
        tmp_path / "out",
        "--cluster",
        "ray",
        "--workers",
        2,
        "--shard-size",
        2,
    )
    code, out, err = deeplab("predict", folder, *words)
    assert code == 1 and f"{len(photos)} photos labelled" in out and "1 photos failed" in err
    (dead,) = map(json.loads, (tmp_path / "out" / "dead-letters.jsonl").read_text().splitlines())
    assert dead["photo"] == str(folder / "broken.png") and "cannot be read" in dead["error"]
    lines = [
        json.loads(line)
        for path in sorted((tmp_path / "out").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len(lines) == len(photos) + 2
    code, out, _ = deeplab(
        "predict", folder, "-m", squares_model, "-o", tmp_path / "out", "--cluster", "dask"
    )
    assert code == 2
