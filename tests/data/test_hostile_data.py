"""Data sets and pictures made to do harm: success or one UserError with the file, within 10 seconds and 2 GB."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import resource
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import hostile_data
from support.every_layout import SETS
from support.hostile_data import RICH, read_data_set, sound
from support.shared_folder import shared

from deeplab.data.decoded import DecodedFiles
from deeplab.data.layouts import recognise
from deeplab.data.layouts.coco_panoptic import read_ids
from deeplab.data.layouts.masks import Painted, read_mask
from deeplab.data.opening import open_source, split_names
from deeplab.data.stored import Item
from deeplab.data.teacher_maps import TeacherMaps
from deeplab.errors import UserError
from deeplab.imaging.photos import read_photo

SECONDS = 10
# the suite takes warnings for errors, and for users this one is no more than it says
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


@contextmanager
def in_time() -> Iterator[None]:
    """Ends what waits for a pipe, or reads a device without end."""

    def late(*_: object) -> None:
        raise AssertionError(f"took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """One UserError that names these, in time."""
    with in_time(), pytest.raises(UserError) as caught:
        yield
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", hostile_data.TARGETS)
def test_what_the_fuzzer_changes_is_sound(name: str, tmp_path: Path) -> None:
    make, read, _ = hostile_data.TARGETS[name]
    random.seed(0)
    read(make(tmp_path, lambda content: content))


LAYOUTS = sorted(set(SETS) | set(RICH))


@pytest.mark.parametrize("trap", ["a pipe", "a device", "a folder", "nothing"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_no_file_is_refused_in_the_place_of_each(layout: str, trap: str, tmp_path: Path) -> None:
    files = sound(layout)
    for number, name in enumerate(files):
        root = tmp_path / str(number) / "set"
        for other, content in files.items():
            path = root / other
            path.parent.mkdir(parents=True, exist_ok=True)
            if other != name:
                path.write_bytes(content)
            elif trap == "a pipe":
                os.mkfifo(path)
            elif trap == "a device":
                path.symlink_to("/dev/zero")
            elif trap == "a folder":
                path.mkdir()
            else:
                path.write_bytes(b"")
        try:
            with in_time():
                read_data_set(layout)(root)
        except UserError as error:
            assert str(tmp_path) in str(error), name


@pytest.mark.parametrize("kind", ["coco", "cvat", "labelme", "supervisely", "wds_index", "masks"])
def test_files_that_once_went_wrong(kind: str, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(shared(f"cases/hostile/{kind}").iterdir())):
        folder = tmp_path / str(number)
        with suppress(UserError), in_time():
            PLACES[kind](folder, path.read_bytes())


def put(root: Path, layout: str, name: str, content: bytes) -> None:
    RICH[layout](root) if layout in RICH else SETS[layout](root)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)
    read_data_set(layout)(root)


def put_pair(root: Path, content: bytes) -> None:
    """A description and an annotation, as they were kept in one file."""
    meta, annotation = eval(content.decode(), {"__builtins__": {}})
    RICH["supervisely"](root)
    (root / "meta.json").write_bytes(meta)
    (root / "d/ann/a.png.json").write_bytes(annotation)
    read_data_set("supervisely")(root)


def put_mask(root: Path, content: bytes) -> None:
    root.mkdir()
    (root / "m.png").write_bytes(content)
    with pytest.raises(UserError, match=r"m\.png: a PNG of \d+ bytes.*claims"):
        read_mask(root / "m.png")
    with pytest.raises(UserError, match=r"m\.png: a PNG of \d+ bytes.*claims"):
        read_photo(root / "m.png")


PLACES: dict[str, Callable[[Path, bytes], None]] = {
    "coco": lambda root, data: put(root, "coco", "annotations/instances_default.json", data),
    "cvat": lambda root, data: put(root, "cvat", "annotations.xml", data),
    "labelme": lambda root, data: put(root, "labelme", "a.json", data),
    "supervisely": put_pair,
    "wds_index": lambda root, data: put(root, "webdataset", "train.json", data),
    "masks": put_mask,
}


def changed(layout: str, name: str, change: Callable[[Any], object], root: Path) -> Path:
    RICH[layout](root)
    content = json.loads((root / name).read_text())
    change(content)
    (root / name).write_text(json.dumps(content))
    return root


def test_a_photo_of_another_size_is_refused_before_it_is_painted(tmp_path: Path) -> None:
    def enlarge(content: Any) -> None:
        content.update(imageHeight=13_000, imageWidth=13_000)

    with refused("a.json", "13000x13000"):
        read_data_set("labelme")(changed("labelme", "a.json", enlarge, tmp_path))


def test_a_mask_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    bomb = base64.b64encode(zlib.compress(bytes(64 << 20))).decode()

    def pack(content: Any) -> None:
        content["objects"][0]["bitmap"]["data"] = bomb

    with refused("a.png.json", "unpacks to more than"):
        read_data_set("supervisely")(changed("supervisely", "d/ann/a.png.json", pack, tmp_path))


def test_regions_that_cover_the_photo_again_and_again_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = 500
    monkeypatch.setattr("deeplab.data.layouts.painting.LEAST_ROOM", 1 << 24)
    (tmp_path / "set").mkdir()
    Image.new("1", (side, side)).save(tmp_path / "set/a.png")
    ring = {"label": "cat", "points": [[0, 0], [side, 0], [side, side], [0, side]], "shape_type": "polygon"}
    content = {"imagePath": "a.png", "imageHeight": side, "imageWidth": side, "shapes": [ring] * 5000}
    (tmp_path / "set/a.json").write_text(json.dumps(content))
    source = open_source(tmp_path / "set", "all")
    with refused("a.json", "too often"):
        source.label(0)


def test_run_lengths_are_compared_with_the_photo_before_they_are_laid_out(tmp_path: Path) -> None:
    runs: list[tuple[Any, Any]] = [
        ([1 << 20, 1 << 20], [1 << 40]),
        ([8, 10], [1 << 62, 1 << 62, 1 << 62, 1 << 62, 80]),
        ([8, 10], [-80, 160]),
        ([8, 10], [10**30]),
        ([8, 10], [[10, 70]]),
        ([8, 10], "0" * 90 + "O"),
        ([-8, -10], [80]),
    ]
    for number, (size, counts) in enumerate(runs):

        def write(content: Any, size: Any = size, counts: Any = counts) -> None:
            content["annotations"][1]["segmentation"] = {"size": size, "counts": counts}

        root = changed("coco", "annotations/instances_default.json", write, tmp_path / str(number))
        with refused("instances_default.json"):
            read_data_set("coco")(root)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"images": ' + "9" * 5000 + "}",
        '{"images": [], "annotations": NaN, "categories": 1e999}',
        "",
    ],
    ids=["nested", "digits", "not numbers", "empty"],
)
@pytest.mark.parametrize(
    "layout", ["coco", "labelme", "supervisely", "via", "label-studio", "cityscapes outlines"]
)
def test_texts_that_parsers_stumble_over(layout: str, text: str, tmp_path: Path) -> None:
    RICH[layout](tmp_path)
    for path in tmp_path.rglob("*.json"):
        path.write_text(text)
    with refused(str(tmp_path)):
        open_source(tmp_path, split_names(tmp_path, layout=layout.partition(" ")[0])[0])


def test_shard_counts_and_samples_are_not_believed(tmp_path: Path) -> None:
    SETS["tfrecord"](tmp_path / "set")
    shard = next((tmp_path / "set").glob("train-00000*"))
    shard.rename(tmp_path / "set" / "train-00000-of-99999999999.tfrecord")
    with refused("99999999999"):
        read_complete(tmp_path / "set", "train")
    index = {"shardlist": [{"url": "a.tar", "nsamples": 10**12}]}
    (tmp_path / "index").mkdir()
    (tmp_path / "index/train.json").write_text(json.dumps(index))
    with refused("train.json", "a.tar is said to hold 1000000000000 samples"):
        open_source(tmp_path / "index", "train")


def read_complete(root: Path, split: str) -> None:
    from deeplab.data.opening import open_complete

    open_complete(root, split)


def test_names_in_xml_that_stand_for_more_names_are_refused(tmp_path: Path) -> None:
    RICH["cvat"](tmp_path)
    entities = '<!ENTITY a0 "x">' + "".join(
        f'<!ENTITY a{number} "{f"&a{number - 1};" * 20}">' for number in range(1, 12)
    )
    (tmp_path / "annotations.xml").write_text(f"<!DOCTYPE x [{entities}]><annotations>&a11;</annotations>")
    with refused("annotations.xml"):
        open_source(tmp_path, "train")
    outside = f'<!DOCTYPE x [<!ENTITY a SYSTEM "{tmp_path / "images/a.png"}">]><annotations>&a;</annotations>'
    (tmp_path / "annotations.xml").write_text(outside)
    with refused("annotations.xml"):
        open_source(tmp_path, "train")


def test_descriptions_in_yaml_are_as_limited_as_recipes(tmp_path: Path) -> None:
    SETS["yolo"](tmp_path)
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for text in (
        bomb,
        f"names: {'9' * 5000}",
        "names: " + "[" * 5000,
        "names: !!python/object/apply:os.getcwd []",
    ):
        (tmp_path / "data.yaml").write_text(text)
        with refused("data.yaml"):
            open_source(tmp_path, "train")


def large(path: Path, mode: str, side: int) -> Path:
    """A PNG of one colour, which is small."""
    Image.new(mode, (side, side)).save(path)
    return path


def test_large_pictures_are_read_within_two_gigabytes(tmp_path: Path) -> None:
    """Of 13,000 x 13,000, by what a fifth of it takes; in a process of its own, as memory once taken stays counted."""
    side = 5800
    paths = {
        mode: large(tmp_path / f"{mode.replace(';', '')}.png", mode, side)
        for mode in ("L", "I;16", "RGBA", "RGB")
    }

    def most(read: Callable[[], object]) -> int:
        child = os.fork()
        if child == 0:
            try:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                read()
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
                os._exit(min(254, grown >> 14))
            except BaseException:
                os._exit(255)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) << 14

    painted = Painted({(0, 0, 0): 0}, tmp_path / "colours.txt")
    readers: dict[str, Callable[[], object]] = {
        "mask": lambda: read_mask(paths["L"]),
        "mask of 16 bits": lambda: read_mask(paths["I;16"]),
        "see-through photo": lambda: read_photo(paths["RGBA"]),
        "photo of 16 bits": lambda: read_photo(paths["I;16"]),
        "colours": lambda: painted(Item("a", paths["RGB"], paths["RGB"])),
    }
    spent = {name: (most(read) >> 10) * (13_000 / side) ** 2 for name, read in readers.items()}
    assert max(spent.values()) < 2048, spent


def test_ids_in_bands_are_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deeplab.imaging.pictures.BAND_PIXELS", 7)
    colours = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    expected = colours[..., 0] + 256 * colours[..., 1].astype(int) + 65536 * colours[..., 2].astype(int)
    np.testing.assert_array_equal(read_ids(tmp_path / "a.png"), expected)
    assert read_ids(tmp_path / "a.png").dtype == np.int64
    grey = (np.arange(30, dtype=np.uint16) * 2100).reshape(5, 6)
    Image.fromarray(grey).save(tmp_path / "g.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "g.png")[..., 1], (grey.astype(int) + 128) // 257)
    clear = np.dstack([colours, (np.arange(30) % 2 * 255).astype(np.uint8).reshape(5, 6)])
    Image.fromarray(clear).save(tmp_path / "c.png")
    found = read_photo(tmp_path / "c.png")
    monkeypatch.undo()
    np.testing.assert_array_equal(found, read_photo(tmp_path / "c.png"))


def test_damaged_kept_pairs_are_decoded_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    kept, pair = DecodedFiles(tmp_path / "kept"), (np.full((4, 6, 3), 7, np.uint8), np.ones((4, 6), np.uint8))
    files = str(tmp_path / "a"), str(tmp_path / "a")
    kept.fetch(files, lambda: pair)
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(path.read_bytes()[:-3])
        np.testing.assert_array_equal(kept.fetch(files, lambda: pair)[0], pair[0])
    image, label = kept.fetch(files, lambda: pytest.fail("not kept"))
    assert image.shape == (4, 6, 3) and label.shape == (4, 6)


def test_teachers_maps_hold_probabilities(tmp_path: Path) -> None:
    root = hostile_data.teacher(tmp_path, lambda content: content)
    place = next(root.glob("*.npz"))
    shares = np.full((3, 4, 5), np.nan)
    np.savez_compressed(place, probabilities=shares)
    with refused(place.name, "nan"):
        hostile_data.read_teacher(root)
    (root / "classes.json").write_text("[" * 5000)
    with refused("classes.json"):
        TeacherMaps([root], ("a", "b"), None)  # type: ignore[arg-type]


def test_pictures_that_claim_much(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 13_000, 13_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))
    (tmp_path / "a.png").write_bytes(content + chunk(b"IEND", b""))
    with refused("a.png", "13000 x 13000"):
        read_photo(tmp_path / "a.png")
    file = io.BytesIO()
    Image.new("L", (3000, 3000)).save(file, format="PNG")
    (tmp_path / "b.png").write_bytes(file.getvalue())
    assert read_photo(tmp_path / "b.png").shape == (3000, 3000, 3)


def test_recognition_asks_no_pipe(tmp_path: Path) -> None:
    for name in (
        "a.json",
        "data.yaml",
        "annotations.xml",
        "labels/train/a.txt",
        "train/_classes.csv",
        "b-0.tar",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(tmp_path / name)
    with refused(str(tmp_path)):
        open_source(tmp_path, "b" if recognise(tmp_path) == "webdataset" else "train")
