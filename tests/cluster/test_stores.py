"""Photos and labels in an object store and in shards: found once each, named so that they are found again."""

from __future__ import annotations

import errno
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.object_store import s3
from support.shards import killed_again_and_again

from deeplab.cluster.inputs import Photos, find_inputs, open_part, parts_of
from deeplab.cluster.shards import BATCH, KILLER, Job
from deeplab.cluster.worker import ToLabel, label_part
from deeplab.errors import UserError
from deeplab.prediction.labelling import Labelling
from deeplab.system.stores import Folder, address_of


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    with s3() as store:
        yield store


def picture(value: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (9, 7), (value, 0, 0)).save(content, "PNG")
    return content.getvalue()


def tar_of(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def table_of(path: Path, **columns: list[object]) -> Path:
    arrow = pytest.importorskip("pyarrow", reason="Parquet is the extra parquet")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table(columns), path, row_group_size=2)
    return path


def all_of(photos: Photos) -> dict[str, object]:
    """Contents by name, in words where there is none."""
    with photos.files:
        found = photos.read(range(len(photos.names)))
    return {
        name: str(content) if isinstance(content, UserError) else content
        for name, content in zip(photos.names, found, strict=True)
    }


def test_addresses() -> None:
    assert (
        address_of("photos/a.jpg") is None and address_of(r"C:\photos") is None and address_of("a:b") is None
    )
    # a path has lost a slash
    assert address_of(Path("s3://photos/a")) == address_of("S3://photos/a") == "s3://photos/a"
    with pytest.raises(UserError, match="s3://a/b::zip://c: chains addresses"):
        address_of("s3://a/b::zip://c")
    for wrong, fix in {
        "s4://photos/a": "correct what stands before",
        "file:///etc/passwd": "give the path alone",
    }.items():
        with pytest.raises(
            UserError, match=rf"{wrong}: no address of a store .* allowed: s3://.* fix: {fix}"
        ):
            address_of(wrong)


def test_inputs_are_found_once_each(store: Any, tmp_path: Path) -> None:
    for name in (
        "in/b.jpg",
        "in/deep/a.PNG",
        "in/c.tar",
        "in/notes.md",
        "in/.hidden/x.jpg",
        "in/out/labels.tar",
    ):
        store.pipe_file(f"photos/{name}", b"x")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    there = ["s3://photos/in/b.jpg", "s3://photos/in/c.tar", "s3://photos/in/deep/a.PNG"]
    assert find_inputs(["s3://photos/in"], beside="s3://photos/in/out") == there
    assert find_inputs(["s3://photos/in/*"], beside="s3://photos/in/out") == there
    assert find_inputs(["s3://photos/in/b.jpg", "s3://photos/in/"], beside="s3://photos/in/out") == there
    here = [str(tmp_path / name) for name in ("in/b.jpg", "in/c.tar", "in/deep/a.PNG")]
    assert find_inputs([str(tmp_path / "in")], beside=str(tmp_path / "in/out")) == here
    # lists are believed
    (tmp_path / "list.txt").write_text("\ufeffin/b.jpg\n\ns3://photos/gone.jpg\n" + here[0] + "\n")
    assert find_inputs([str(tmp_path / "list.txt")], beside="x") == [here[0], "s3://photos/gone.jpg"]
    store.pipe_file("photos/list.txt", b"in/b.jpg\r\nhttps://example.org/a.jpg?size=2\r\n")
    assert find_inputs(["s3://photos/list.txt"], beside="x") == [there[0], "https://example.org/a.jpg?size=2"]
    with pytest.raises(UserError, match="all photos found lie inside the output folder"):
        find_inputs(["s3://photos/in"], beside="s3://photos/in")


def test_folders_that_a_glob_matches_are_walked(tmp_path: Path) -> None:
    """Here and in a store alike."""
    memory = pytest.importorskip("fsspec", reason="stores are the extra stores").filesystem("memory")
    for name in (
        "train-a/x.jpg",
        "train-a/deep/y.PNG",
        "train-a/deep/notes.md",
        "train-a/.hidden/z.jpg",
        "train-b/c.tar",
        "train-c.jpg",
        "train-[d].jpg",
        "val/v.jpg",
    ):
        memory.pipe_file(f"/globs/{name}", b"x")
        (tmp_path / "globs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "globs" / name).write_bytes(b"x")
    below = ["train-a/deep/y.PNG", "train-a/x.jpg", "train-b/c.tar"]
    for pattern, expected in {
        "train-?": below,
        "train-*/": below,
        "train-*": [*below, "train-[d].jpg", "train-c.jpg"],
        "train-*/*": below,
        "*/deep": below[:1],
        "train-[d].jpg": ["train-[d].jpg"],
        "**": [*below, "train-[d].jpg", "train-c.jpg", "val/v.jpg"],
    }.items():
        for start in (f"{tmp_path}/globs/", "memory://globs/"):
            found = find_inputs([f"{start}{pattern}"], beside="x")
            assert sorted(each.partition("globs/")[2] for each in found) == sorted(expected), (start, pattern)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("s3://photos/nothing", "s3://photos/nothing: no photo found there"),
        ("s3://photo/in", "s3://photo/in: no photo found there|is not there"),
        ("s3://photos/no.txt", "s3://photos/no.txt: is not there; fix: look at the names"),
        ("s3//photos", "no such file or folder"),
        ("empty.txt", "empty.txt: is an empty list; fix: write a path"),
        ("wrong.txt", "s4://photos/a.jpg: no address of a store"),
        ("none.txt", "none.txt: cannot be read"),
    ],
)
def test_what_is_not_there_is_named(store: Any, tmp_path: Path, source: str, words: str) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "wrong.txt").write_text("s4://photos/a.jpg\n")
    given = str(tmp_path / source) if source.endswith(".txt") and "://" not in source else source
    with pytest.raises(UserError, match=words):
        find_inputs([given], beside="x")


def test_no_credentials(store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    type(store).clear_instance_cache()
    try:
        with pytest.raises(UserError, match=r"without credentials.*fix: aws configure"):
            find_inputs(["s3://photos/in"], beside="x")
    finally:
        type(store).clear_instance_cache()


def test_shards_of_tar(store: Any, tmp_path: Path) -> None:
    files = {
        "x/a.jpg": b"1", "x/a.png": b"mask", "x/a.json": b"{}",
        "b.PNG": b"2", "c.left.jpg": b"3", "c.right.jpg": b"4", "c.seg.png": b"mask", "._d.jpg": b"",
    }  # fmt: skip
    (tmp_path / "s.tar").write_bytes(tar_of(files))
    store.pipe_file("photos/s.tar", tar_of(files))
    for address in (str(tmp_path / "s.tar"), "s3://photos/s.tar"):
        assert all_of(open_part((address,))) == {
            f"{address}::{name}": files[name] for name in ("x/a.jpg", "b.PNG", "c.left.jpg", "c.right.jpg")
        }


def test_shards_of_parquet(store: Any, tmp_path: Path) -> None:
    images = [b"1", None, b"3", b"4", b"5"]
    plain = table_of(tmp_path / "p.parquet", id=list(range(5)), image=images, thumbnail=[b"t"] * 5)
    nested = table_of(
        tmp_path / "hf.parquet", picture=[{"bytes": each, "path": "a.jpg"} for each in images], label=[0] * 5
    )
    store.put_file(str(nested), "photos/hf.parquet")
    for address in (str(plain), str(nested), "s3://photos/hf.parquet"):
        found = all_of(open_part((address,)))
        assert list(found) == [f"{address}::{row}" for row in range(5)]
        none = f"{address}::1: the row holds no bytes of a photo"
        assert list(found.values()) == [b"1", none, b"3", b"4", b"5"]
        with (photos := open_part((address,))).files:
            assert photos.read([1, 3]) and photos.read([4]) == [b"5"]


def test_links_in_a_tar_are_the_files_that_they_lead_to(tmp_path: Path) -> None:
    """As tar writes photos that have two names: none vanishes."""
    for number, (kind, leads_to) in enumerate(
        [(tarfile.LNKTYPE, "x/a.jpg"), (tarfile.SYMTYPE, "../x/a.jpg"), (tarfile.SYMTYPE, "gone.jpg")]
    ):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w") as tar:
            file, link = tarfile.TarInfo("x/a.jpg"), tarfile.TarInfo("y/b.jpg")
            file.size, link.type, link.linkname = 5, kind, leads_to
            tar.addfile(file, io.BytesIO(b"photo"))
            tar.addfile(link)
        found = all_of(open_part((str(path),)))
        if number < 2:
            assert found == {f"{path}::x/a.jpg": b"photo", f"{path}::y/b.jpg": b"photo"}
        else:
            assert re.search(r"holds y/b.jpg as a link to gone.jpg, .* fix: write it again", found[str(path)])


@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view", "fixed"])
def test_bytes_of_every_kind_are_photos(tmp_path: Path, kind: str) -> None:
    arrow = pytest.importorskip("pyarrow", reason="Parquet is the extra parquet")
    bytes_of = arrow.binary(3) if kind == "fixed" else getattr(arrow, kind)()
    path = table_of(tmp_path / "p.parquet", image=arrow.array([b"one", b"two"], bytes_of))
    assert list(all_of(open_part((str(path),))).values()) == [b"one", b"two"]


def test_rows_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    path = table_of(tmp_path / "p.parquet", image=[bytes([number]) * 500 for number in range(5)])
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[: half - 200] + bytes(400) + content[half + 200 :])
    with (photos := open_part((str(path),))).files:
        # a batch at a time, as workers do
        reasons = [str(photos.read([number])[0]) for number in range(5)]
    assert len(reasons) == 5 and all(
        "cannot be read as Parquet" in each and "StopIteration" not in each for each in reasons
    )


TWICE = tar_of({"a.jpg": b"1"})[:1024] * 2 + bytes(1024)
CUT = tar_of({"a.jpg": bytes(9999), "b.jpg": bytes(9999)})[:12_000]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.tar", tar_of({}), "holds no photo; fix: leave it out"),
        ("nothing.tar", b"", "cannot be read as a tar"),
        ("twice.tar", TWICE, "holds a.jpg twice; fix: write it again with names of their own"),
        (
            "case.tar",
            tar_of({"x/a.jpg": b"1", "x/a.JPG": b"2"}),
            "holds x/a.jpg and x/a.JPG, one place of a sample",
        ),
        ("half.tar", CUT, "unexpected end of data.*; fix: write or fetch it again"),
        ("between.tar", TWICE[:1024], "was cut short: its end mark is missing; fix: write or fetch it again"),
        ("packed.tar", b"\x1f\x8b" + bytes(600), "not compressed"),
        ("gone.tar", None, "cannot be read .No such file|is not there"),
        ("broken.parquet", b"PAR1" * 9, "cannot be read as Parquet"),
        (
            "words.parquet",
            {"text": ["a"], "id": [1]},
            "no column of bytes.* its columns: text, id; fix: call",
        ),
        ("two.parquet", {"one": [b"a"], "two": [b"a"]}, "several columns of bytes, one, two"),
        ("rows.parquet", {"image": []}, "no column of bytes"),
    ],
)
def test_a_broken_shard_is_said_once(store: Any, tmp_path: Path, name: str, content: Any, words: str) -> None:
    path = tmp_path / name
    if isinstance(content, dict):
        table_of(path, **content)
    elif content is not None:
        path.write_bytes(content)
    if content is not None:
        store.put_file(str(path), f"photos/{name}")
    for address in (str(path), f"s3://photos/{name}"):
        (reason,) = all_of(open_part((address,))).values()
        assert isinstance(reason, str) and reason.startswith(f"{address}: ") and re.search(words, reason)


def test_a_job_in_a_store(store: Any, squares_model: Path, squares: Path, tmp_path: Path) -> None:
    """Photos one by one and in a shard; labels are those of the files, whole under the final key, and nothing else."""
    photos = sorted((squares / "JPEGImages").iterdir())
    for photo in photos:
        store.put_file(str(photo), f"photos/source/{photo.name}")
    shard = tar_of({photo.name: photo.read_bytes() for photo in photos} | {"broken.jpg": b"no photo"})
    store.pipe_file("photos/source/z.tar", shard)
    store.pipe_file("photos/out/labels-00007.jsonl", b"of a job before")
    inputs = [*find_inputs(["s3://photos/source"], beside="x"), "s3://photos/source/gone.jpg"]
    parts = parts_of(inputs, size=10)
    job = Job.planned(parts, "s3://photos/out", about={})
    assert job.batch == BATCH and job.open_parts(len(parts)) == [0, 1]
    how = Labelling(device="cpu")
    done = [
        label_part(ToLabel(job, str(squares_model), how), number, part) for number, part in enumerate(parts)
    ]
    assert [each.photos for each in done] == [len(photos) + 1, len(photos) + 1] and job.open_parts(2) == []
    dead = {line["photo"]: line["error"] for each in done for line in each.dead}
    assert set(dead) == {"s3://photos/source/z.tar::broken.jpg", "s3://photos/source/gone.jpg"}
    assert "is not there" in dead["s3://photos/source/gone.jpg"]
    here = Job.planned([tuple(map(str, photos))], str(tmp_path), about={})
    label_part(ToLabel(here, str(squares_model), how), 0, tuple(map(str, photos)))
    maps = {}
    for folder, count in ((job.target, 2), (here.target, 1)):
        for line in Job(folder).lines(range(count)):
            if "labels" in line:
                with tarfile.open(fileobj=io.BytesIO(next(folder.read([line["tar"]])))) as tar:
                    maps[line["photo"]] = tar.extractfile(line["labels"]).read()
    for photo in photos:
        assert maps[f"s3://photos/source/{photo.name}"] == maps[str(photo)]
        assert maps[f"s3://photos/source/z.tar::{photo.name}"] == maps[str(photo)]
    with pytest.raises(UserError, match="a job that is not finished"):
        Job.planned(parts[:1], "s3://photos/out", about={})
    job.finish()
    names = {f"photos/out/labels-{number:05}.{kind}" for number in (0, 1) for kind in ("tar", "jsonl")}
    store.invalidate_cache()
    assert set(store.find("photos/out")) == names


def test_killers_in_a_store(store: Any, tmp_path: Path) -> None:
    names = ["a", "kill", "broken"]
    store.pipe_file("photos/killers.tar", tar_of({f"{name}.jpg": name.encode() for name in names}))
    part = ("s3://photos/killers.tar",)
    job = Job.planned([part], "s3://photos/killed", about={})
    # with the batch, and twice alone
    assert killed_again_and_again(job, 0, part, tmp_path / "begun") == 3
    lines = list(job.lines([0]))
    assert [line["photo"] for line in lines] == [f"{part[0]}::{name}.jpg" for name in names]
    assert {line["photo"][-8:-4]: line["error"] for line in lines if "error" in line} == {
        "kill": KILLER,
        "oken": "broken: no photo",
    }


def test_a_shard_that_kills_whoever_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a library's crash does; no photo of it was begun by then."""
    part = (str(tmp_path / "s.tar"),)
    Path(part[0]).write_bytes(tar_of({"a.jpg": b"1"}))
    job = Job.planned([part], str(tmp_path / "out"), about={})

    def crash(part: object) -> Photos:
        raise KeyboardInterrupt

    monkeypatch.setattr("deeplab.cluster.shards.open_part", crash)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            job.label_part(0, part, lambda name, photo: b"")
    assert job.label_part(0, part, lambda name, photo: b"").photos == 1
    (line,) = job.lines([0])
    assert line == {"photo": part[0], "error": f"{part[0]}: its process was killed twice while it was opened"}


def test_a_shard_larger_than_the_disk_for_its_copy(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.pipe_file("photos/s.tar", b"x")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deeplab.system.stores.shutil.copyfileobj", full)
    with pytest.raises(UserError, match=r"the disk is full\); fix: free some space there, or set TMPDIR"):
        open_part(("s3://photos/s.tar",))


def test_what_cannot_be_removed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of a job before, on a disk that is read-only by now."""
    job = Job.planned([("a",)], str(tmp_path), about={})
    job.label_part(0, ("a",), lambda name, photo: b"")
    job.finish()

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(
        UserError, match=r"labels-00000\.\w+: cannot be written \(its file system is read-only\)"
    ):
        Job.planned([("b",)], str(tmp_path), about={})


def test_a_folder_is_one_here_and_there(store: Any, tmp_path: Path) -> None:
    for folder in (Folder(str(tmp_path)), Folder("s3://photos/folder")):
        assert folder.names() == folder.names("below") == set()
        folder.write("a", b"1")
        folder.mark("below/b")
        with pytest.raises(KeyboardInterrupt), folder.whole("half") as file:
            file.write(b"h")
            raise KeyboardInterrupt
        assert folder.names() == {"a"} and folder.names("below") == {"b"}
        assert list(folder.read(["a", "below/b"])) == [b"1", b""]
        with pytest.raises(UserError, match="is not there"):
            list(folder.read(["c"]))
        folder.remove(["a", "gone"])
        folder.remove(["below", "gone"], folder=True)
        assert folder.names() == folder.names("below") == set()
    with pytest.raises(
        UserError, match=r"s3://nowhere-to-be-found.*: is not there; fix: look at the names of the b"
    ):
        Folder("s3://nowhere-to-be-found").write("a", b"")
    with pytest.raises(UserError, match="is a place to read from; allowed: a folder, or s3://"):
        Job.planned([("a",)], "https://example.org/out", about={})
    # each process has its own
    with pytest.raises(UserError, match="memory://out: is a place to read from"):
        Job.planned([("a",)], "memory://out", about={})
