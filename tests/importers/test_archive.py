"""Archives and folders of weights: looked into, and never trusted."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from support.shared_folder import shared

from deeplab.errors import UserError
from deeplab.importers import import_weights
from deeplab.importers.archive import is_archive, unpacked


def pack(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar"])
def test_published_archive_is_imported_straight(tmp_path: Path, suffix: str) -> None:
    published = shared("golden/m_mnv2_dm025_voc")
    path = tmp_path / f"downloaded{suffix}"
    with tarfile.open(path, "w:gz" if suffix == ".tar.gz" else "w") as archive:
        archive.add(published, "deeplabv3_mnv2")
    model, report = import_weights(path)
    assert report.source == path.name and "model.ckpt-1234.index in the archive" in report.format
    assert report.facts["output stride"] == "16 (from the graph)"
    assert model.provenance["import"]["source"] == path.name
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "name", ["../escaped", "/tmp/escaped", "a/../../escaped", "C:escaped", "..\\escaped"]
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    archive = pack(tmp_path / "a.tar.gz", (tarfile.TarInfo(name), b"x"))
    with pytest.raises(UserError, match="outside the folder"), unpacked(archive):
        pass
    assert not list(tmp_path.parent.glob("escaped")) and not Path("/tmp/escaped").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = pack(tmp_path / "a.tar.gz", (link("model.ckpt.index", "/etc/passwd", kind), b""))
    with pytest.raises(UserError, match="link or a device"), unpacked(archive):
        pass


def test_size_bombs_are_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", (tarfile.TarInfo("zeros"), bytes(3_000_000)))
    assert archive.stat().st_size < 10_000
    with pytest.raises(UserError, match="unpacks to more than"), unpacked(archive, largest=1_000_000):
        pass
    with unpacked(archive) as folder:
        assert (folder / "zeros").stat().st_size == 3_000_000
    assert not folder.exists()
    many = pack(tmp_path / "many.tar.gz", *((tarfile.TarInfo(f"file{i}"), b"") for i in range(1001)))
    with pytest.raises(UserError, match="more than 1000 files"), unpacked(many):
        pass


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_000)))
    with pytest.raises(UserError, match=r"a\.tar\.gz"), unpacked(path, largest=1 << 20):
        pass


# names of their own: the bytes hold the time, and processes that share out the tests would not find the same ones
@pytest.mark.parametrize(
    "content",
    [b"\x1f\x8b" + bytes(100), gzip.compress(b"no archive in here" * 100)],
    ids=["cut off", "no archive"],
)
def test_a_damaged_archive_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.tar.gz"
    path.write_bytes(content)
    assert is_archive(content)
    with pytest.raises(UserError, match=r"broken\.tar\.gz"):
        import_weights(path)


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    data = bytes(range(256)) * 400
    path = pack(tmp_path / "short.tar.gz", (tarfile.TarInfo("a"), data))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"short\.tar\.gz: this is no whole .* fetch it again"):
        import_weights(path)


def test_folders_and_archives_without_weights_say_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"no files with weights \(notes\.txt\)"):
        import_weights(tmp_path)
    archive = pack(tmp_path / "a.tar.gz", (tarfile.TarInfo("deep/readme.md"), b"text"))
    with pytest.raises(UserError, match=r"a\.tar\.gz: holds no files with weights \(readme\.md\)"):
        import_weights(archive)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\x08\x01\x12\xff\x7f", "a TensorFlow SavedModel"),
        (b'model_checkpoint_path: "model.ckpt-1"\n', "the list of a folder's TensorFlow checkpoints"),
        (b'node {\n  name: "ImageTensor"\n', "a TensorFlow graph written as text"),
        (b"\x00\x00\x84\x02\x0a\x81\x02\x0a\x10" + bytes(50), "a TensorFlow V1 checkpoint"),
        (b"<!DOCTYPE html>", "an HTML page"),
    ],
)
def test_a_wrong_file_is_told_what_it_seems_to_be(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=name):
        import_weights(path)


def test_a_mistake_in_an_archive_names_the_file_in_there(tmp_path: Path) -> None:
    """The folder that it was unpacked into is gone, and nobody's business."""
    damaged = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02"
    archive = pack(tmp_path / "a.tar.gz", (tarfile.TarInfo("deep/weights.pth"), damaged))
    with pytest.raises(UserError, match=r"a\.tar\.gz: deep/weights\.pth: this is damaged") as caught:
        import_weights(archive)
    assert caught.value.file == f"{archive}: deep/weights.pth"
    assert "deeplab-import-" not in str(caught.value)
