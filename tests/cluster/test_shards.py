"""Jobs in shards: one line for each photo, whoever is killed when."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.evaluation_runs import CLASSES
from support.object_store import s3
from support.shards import killed_again_and_again

from deeplab.cluster.inputs import find_inputs, parts_of
from deeplab.cluster.shards import KILLER, Job
from deeplab.cluster.worker import ToLabel, _opened, label_part
from deeplab.errors import UserError
from deeplab.model.checkpoint import load, save
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.system.stores import Folder

CPU = Labelling(device="cpu")


def contents(job: Job, parts: int) -> dict[str, bytes]:
    """Label maps by the photo that the index says they are of."""
    found = {}
    for line in job.lines(range(parts)):
        if "labels" in line:
            (packed,) = job.target.read([line["tar"]])
            with tarfile.open(fileobj=BytesIO(packed)) as tar:
                found[line["photo"]] = tar.extractfile(line["labels"]).read()
    return found


def test_a_process_that_was_given_no_gpu_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert next(_opened("animals", Labelling()).network.parameters()).device.type == "cpu"


@pytest.mark.parametrize("batch", [1, 3])
def test_killers_and_broken_photos_end_as_dead_letters(tmp_path: Path, batch: int) -> None:
    names = ["a", "kill", "b", "broken", "once", "c", "d"]
    parts = parts_of(names, size=5)
    job = replace(Job.planned(parts, str(tmp_path / "out"), about={}), batch=batch)
    assert len(parts) == 2
    deaths = [
        killed_again_and_again(job, number, part, tmp_path / "begun") for number, part in enumerate(parts)
    ]
    # twice by one, once by the other; of more photos than one it was not known by which
    assert deaths == [{1: 3, 3: 4}[batch], 0]
    lines = list(job.lines(range(2)))
    assert [line["photo"] for line in lines] == names
    errors = {line["photo"]: line["error"] for line in lines if "error" in line}
    assert errors == {"kill": KILLER, "broken": "broken: no photo"}
    assert contents(job, 2) == {name: name.encode() for name in names if name not in errors}
    # again were begun what killed its process, and what its batch lost with it
    begun = sorted((tmp_path / "begun").read_text().split())
    lost = ["a", "kill", "broken"] if batch == 3 else []
    assert begun == sorted([*names, "kill", "once", *lost])
    job.finish()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"labels-{number:05}.{kind}" for number in (0, 1) for kind in ("tar", "jsonl")
    }


def test_a_job_goes_on_with_the_parts_that_are_open(tmp_path: Path) -> None:
    parts = parts_of([str(number) for number in range(7)], size=3)
    target = str(tmp_path)
    job = Job.planned(parts, target, about={"model": "m"})
    done: list[str] = []

    def label(name: str, photo: Path | bytes) -> bytes:
        done.append(name)
        return b""

    job.label_part(1, parts[1], label)

    def stop(name: str, photo: Path | bytes) -> bytes:
        if name == "2":
            raise KeyboardInterrupt
        return label(name, photo)

    with pytest.raises(KeyboardInterrupt):
        job.label_part(0, parts[0], stop)
    again = Job.planned(parts, target, about={"model": "m"})
    assert again.open_parts(3) == [0, 2]
    for number in again.open_parts(3):
        again.label_part(number, parts[number], label)
    assert done == ["3", "4", "5", "0", "1", "2", "6"]
    for other in ({"model": "another"}, {"model": "m", "label_maps": "png"}):
        with pytest.raises(UserError, match="a job that is not finished"):
            Job.planned(parts, target, about=other)
    with pytest.raises(UserError, match="a job that is not finished"):
        Job.planned(parts_of([str(number) for number in range(7)], size=4), target, about={"model": "m"})
    again.finish()
    # a finished one is no hindrance, and its labels are not taken for the new one's
    assert Job.planned(parts[:2], target, about={"model": "another"}).open_parts(2) == [0, 1]
    assert not list(tmp_path.glob("labels-*"))


def test_who_stops_a_job_again_and_again_blames_no_photo(tmp_path: Path) -> None:
    parts = parts_of(["a", "b"], size=2)

    def stop(name: str, photo: Path | bytes) -> bytes:
        raise KeyboardInterrupt

    for _ in range(4):
        job = Job.planned(parts, str(tmp_path), about={})
        with pytest.raises(KeyboardInterrupt):
            job.label_part(0, parts[0], stop)
        job.stop([0])
    job = Job.planned(parts, str(tmp_path), about={})
    assert job.label_part(0, parts[0], lambda name, photo: b"").dead == ()
    assert not job.target.names(".job") - {"key"}


def test_damaged_leftovers_are_named_with_the_way_out(tmp_path: Path) -> None:
    parts, out = parts_of(["a", "b"], size=1), tmp_path / "out"
    job = Job.planned(parts, str(out), about={})
    assert job.label_part(0, parts[0], lambda name, _: name.encode()).photos == 1
    (out / "labels-00000.jsonl").write_bytes(b"\xff{")
    with pytest.raises(UserError, match=r"labels-00000\.jsonl: .*fix: remove it and its folder \.job"):
        list(job.lines([0]))
    (out / ".job/key").write_bytes(b"\xff")
    with pytest.raises(UserError, match="holds a job that is not finished"):
        Job.planned(parts, str(out), about={})


def test_a_job_begun_anew_leaves_no_label_map_of_the_one_before(tmp_path: Path) -> None:
    parts = parts_of(["a", "b", "c"], size=1)
    job = Job.planned(parts, str(tmp_path), about={}, label_maps="png")
    for number, part in enumerate(parts):
        assert job.label_part(number, part, lambda name, _: name.encode()).photos == 1
    job.finish()
    assert len(list(tmp_path.glob("labels-*/*.png"))) == 3
    # a job that ended half, its key gone first; and what only looks like a result
    (tmp_path / ".job/00000").mkdir(parents=True)
    (tmp_path / ".job/00000/00000.tar").write_bytes(b"another model's")
    (tmp_path / "labels-mine").mkdir()
    (tmp_path / "labels-mine.tar").write_bytes(b"mine")
    Job.planned(parts[:1], str(tmp_path), about={}, label_maps="png")
    assert {path.name for path in tmp_path.glob("labels-*")} == {"labels-mine", "labels-mine.tar"}
    assert [path.name for path in (tmp_path / ".job").iterdir()] == ["key"]


def test_a_target_that_is_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=r"out: cannot be written \(.*out is a file, not a folder\); fix"):
        Job.planned(parts_of(["a"], size=1), str(tmp_path / "out"), about={})
    assert (tmp_path / "out").read_text() == "mine"


def test_a_list_with_a_zero_byte_is_none(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a.jpg\nb\0.jpg\n")
    with pytest.raises(UserError, match=r"list\.txt: .*zero byte.*fix: write a path"):
        list(find_inputs([str(tmp_path / "list.txt")], beside=str(tmp_path / "out")))


def test_a_twin_that_was_thought_dead_changes_nothing(tmp_path: Path) -> None:
    (part,) = parts_of(["a", "b"], size=2)
    job = Job.planned([part], str(tmp_path), about={})

    def label(name: str, photo: Path | bytes) -> bytes:
        if name == "b":
            job.label_part(0, part, lambda name, photo: name.encode())
        return name.encode()

    assert job.label_part(0, part, label).photos == 2
    assert contents(job, 1) == {"a": b"a", "b": b"b"}


def test_what_cannot_be_written_is_no_fault_of_the_photo(tmp_path: Path, monkeypatch) -> None:
    """And names that are long, or no UTF-8, are written."""
    photos = [tmp_path / ("a" * 250), tmp_path / os.fsdecode(b"bad\xff"), tmp_path / ("\u732b" * 80)]
    (part,) = parts = parts_of(list(map(str, photos)), size=5)
    job = Job.planned(parts, str(tmp_path / "out"), about={})
    with monkeypatch.context() as patched:

        def full(path: Path) -> None:
            raise UserError("cannot be written (the disk is full)", file=path)

        patched.setattr("deeplab.system.stores.whole_file", full)
        # however often
        for _ in range(4):
            with pytest.raises(UserError, match="the disk is full"):
                job.label_part(0, part, lambda name, photo: b"x")
    assert job.open_parts(1) == [0]
    job.label_part(0, part, lambda name, photo: os.fsencode(name))
    assert contents(job, 1) == {str(photo): os.fsencode(photo) for photo in photos}


def test_labels_are_those_of_predict(squares_model, squares: Path, tmp_path: Path) -> None:
    photos = sorted((squares / "JPEGImages").iterdir())
    parts = parts_of(list(map(str, photos)), size=2)
    packed, files = (
        ToLabel(Job.planned(parts, str(tmp_path / kind), about={}, label_maps=kind), str(squares_model), CPU)
        for kind in ("tar", "png")
    )
    for number, part in enumerate(parts):
        label_part(packed, number, part)
        label_part(files, number, part)
    predictor = Predictor.of(load(squares_model), CPU)
    found = contents(packed.job, 2)
    for photo, line in zip(photos, files.job.lines(range(2)), strict=True):
        assert (tmp_path / "png" / line["labels"]).read_bytes() == found[str(photo)]
        with Image.open(BytesIO(found[str(photo)])) as labels:
            assert labels.mode == "P"
            assert (np.array(labels) == predictor.labels_of(predictor.photo(photo)).numpy()).all()


def test_a_photo_too_large_for_memory_is_a_dead_letter(
    squares_model, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (part,) = parts = parts_of(sorted(map(str, (squares / "JPEGImages").iterdir())), size=5)
    labels_of = Predictor.labels_of

    def short(predictor: Predictor, photo: np.ndarray) -> torch.Tensor:
        monkeypatch.setattr(Predictor, "labels_of", labels_of)
        raise MemoryError

    monkeypatch.setattr(Predictor, "labels_of", short)
    job = Job.planned(parts, str(tmp_path / "out"), about={})
    done = label_part(ToLabel(job, str(squares_model), CPU), 0, part)
    assert done.photos == len(part)
    (dead,) = done.dead
    assert dead["photo"] == part[0] and f"{part[0]}: memory ran out" in dead["error"]


def test_a_scene_and_a_clip_are_dead_letters_and_no_photos(
    squares_model, squares: Path, tmp_path: Path
) -> None:
    photo = min((squares / "JPEGImages").iterdir())
    with Image.open(photo) as image:
        image.save(tmp_path / "scene.tif", big_tiff=True)
    (tmp_path / "clip.mp4").write_bytes(b"a clip")
    (part,) = parts = [(str(photo), str(tmp_path / "scene.tif"), str(tmp_path / "clip.mp4"))]
    job = Job.planned(parts, str(tmp_path / "out"), about={})
    done = label_part(ToLabel(job, str(squares_model), CPU), 0, part)
    (labelled, *dead) = job.lines([0])
    assert "labels" in labelled and list(done.dead) == dead and len(dead) == 2
    assert "is a scene" in dead[0]["error"] and "is a clip" in dead[1]["error"]
    assert all("without --cluster" in each["error"] for each in dead)


def test_ray_labels_all_and_names_what_failed(deeplab, squares_model, squares: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the engine is the extra ray")
    photos = sorted((squares / "JPEGImages").iterdir())
    with s3() as store:
        for photo in photos:
            store.put_file(str(photo), f"photos/in/{photo.name}")
        store.pipe_file("photos/in/broken.png", b"no photo")
        with tarfile.open(tmp_path / "shard.tar", "w") as tar:
            for photo in photos:
                tar.add(photo, photo.name)
        words = ["-m", squares_model, "--cluster", "ray", "--workers", 2, "--shard-size", 3]
        code, out, err = deeplab(
            "predict", "s3://photos/in", tmp_path / "shard.tar", "-o", "s3://photos/out", *words
        )
        assert code == 1 and f"{2 * len(photos)} photos labelled: s3://photos/out/labels-*.tar" in out
        assert "1 photos failed, see s3://photos/out/dead-letters.jsonl" in err
        (dead,) = map(json.loads, store.cat("photos/out/dead-letters.jsonl").splitlines())
        assert dead["photo"] == "s3://photos/in/broken.png" and "cannot be read" in dead["error"]
        kept = Job(Folder("s3://photos/out"))
        assert (
            len(contents(kept, 3)) == 2 * len(photos)
            and len(list(kept.lines(range(3)))) == 2 * len(photos) + 1
        )
        code, _, err = deeplab("predict", "s3://photos/in", "-m", squares_model, "-o", tmp_path)
        assert code == 2 and "s3://photos/in: lies in a store; fix: --cluster ray" in err
        code, _, err = deeplab("predict", tmp_path / "shard.tar", "-m", squares_model, "-o", tmp_path)
        assert code == 2 and "shard.tar: is a shard or a list of photos; fix: --cluster ray" in err
    for wrong in (
        ["--cluster", "dask"],
        ["--cluster", "ray://head"],
        ["--cluster", "ray", "--workers", 0],
        ["--label-maps", "png"],
    ):
        code, _, err = deeplab("predict", squares, "-m", squares_model, "-o", tmp_path / "out", *wrong)
        assert code == 2 and wrong[-2] in err and not (tmp_path / "out").exists()


def test_a_model_that_changed_in_place_is_another(
    deeplab, squares_model, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the labels of one job were those of two."""

    class Here:
        def run(self, work: Callable[..., Any], common: ToLabel, parts: Iterable[Any]) -> Iterator[Any]:
            yield work(common, *next(iter(parts)))
            raise KeyboardInterrupt

    monkeypatch.setattr("deeplab.cluster.ray_engine.ray_for", lambda *_, **__: None)
    monkeypatch.setattr("deeplab.cluster.ray_engine.ray_cluster", lambda *_, **__: nullcontext(Here()))
    words = ["-m", tmp_path / "model", "-o", tmp_path / "out", "--cluster", "ray", "--shard-size", 1]
    model = load(squares_model)
    save(model, tmp_path / "model")
    assert deeplab("predict", squares, *words)[0] == 130
    # the first part was done
    assert json.loads((tmp_path / "out/.job/stopped").read_text()) == []
    with torch.no_grad():
        next(model.parameters()).add_(0.5)
    save(model, tmp_path / "model")
    code, _, err = deeplab("predict", squares, *words)
    assert code == 2 and "a job that is not finished, of other photos, another model" in err


def test_ray_measures_to_the_last_bit(
    deeplab, squares_model, squares: Path, tmp_path: Path, monkeypatch
) -> None:
    pytest.importorskip("ray", reason="the engine is the extra ray")
    monkeypatch.setattr("deeplab.cli.cluster.MEASURED_TOGETHER", 1)
    words = ["eval", squares, "-m", squares_model, "--split", "train", "--classes", *CLASSES, "--boundaries"]
    words += ["--reliability", "--bootstrap", 9]
    shown = []
    for name, cluster in (("plain", []), ("cluster", ["--cluster", "ray", "--workers", 2])):
        code, out, _ = deeplab(*words, *cluster, "-o", tmp_path / name)
        shown.append(out.replace(name, ""))
        assert code == 0
    assert shown[0] == shown[1]
    for name in ("results.json", "images.npz", "report.html"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "cluster" / name).read_bytes()
