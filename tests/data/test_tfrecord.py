"""TFRecord shards that the reference did not write, and damage (`test_golden.py` judges the shards that it wrote)."""

import numpy as np
import pytest
from PIL import Image
from support.data_folders import grey, photo, text

from deeplab.data.layouts.tfrecord import write_split
from deeplab.data.opening import open_source
from deeplab.data.tfrecord import (
    decode_example,
    encode_example,
    mask,
    read_record,
    record_places,
)
from deeplab.errors import UserError


def test_check_mask_is_the_published_one():
    # TensorFlow's crc32c_test: masking a check changes it, twice masking changes it again; the formula by hand
    assert mask(0) == 0xA282EAD8 and mask(0x8000) == 0xA282EAD9 and mask(1) == 0xA284EAD8


@pytest.fixture
def plain(tmp_path):
    """Five photos: JPEG, PNG, grey JPEG, one that lies on its side, one with transparency."""
    root = tmp_path / "plain"
    for index, name in enumerate(("a.jpg", "b.png", "c.jpg", "d.jpg", "e.png")):
        photo(root / "images" / name, (4, 6), seed=index)
        grey(root / f"masks/{name[0]}.png", np.full((4, 6), index % 3))
    with Image.open(root / "images/c.jpg") as image:
        image.convert("L").save(root / "images/c.jpg")
    with Image.open(root / "images/d.jpg") as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(root / "images/d.jpg", exif=exif)
    grey(root / "masks/d.png", np.full((6, 4), 2))
    with Image.open(root / "images/e.png") as image:
        image.putalpha(100)
        image.save(root / "images/e.png")
    text(root / "classes.txt", "background\ncat\ndog\n")
    return root


def test_what_was_written_reads_alike(plain, tmp_path):
    source = open_source(plain, "all")
    written = write_split(source, tmp_path / "out", "train", shards=2)
    assert [path.name for path in written] == [
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord",
    ]
    assert [len(record_places(path)) for path in written] == [3, 2]
    again = open_source(tmp_path / "out", "train")
    assert again.classes == ("background", "cat", "dog") and len(again) == 5
    assert again.files(2) == (f"{written[0]}:2", f"{written[0]}:2 (mask)")
    assert again.files(3)[0] == f"{written[1]}:0"
    for index in range(5):
        assert again.name(index) == source.name(index)
        np.testing.assert_array_equal(again.photo(index), source.photo(index))
        np.testing.assert_array_equal(again.label(index), source.label(index))
    stored = [
        decode_example(read_record(path, *place))
        for path in written
        for place in record_places(path).tolist()
    ]
    assert [record["image/format"] for record in stored] == [b"jpeg", b"png", b"jpeg", b"png", b"png"]
    assert stored[0]["image/encoded"] == (plain / "images/a.jpg").read_bytes()
    assert (stored[3]["image/height"], stored[3]["image/width"]) == (6, 4)


def test_wrong_samples_are_not_written(plain, tmp_path):
    grey(plain / "masks/b.png", np.full((4, 6), 3))
    with pytest.raises(UserError, match=r"b\.png: value 3"):
        write_split(open_source(plain, "all"), tmp_path / "out", "train", shards=1)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(UserError, match=r"6 shards for 5 samples; allowed: 1\.\.5"):
        write_split(open_source(plain, "all"), tmp_path / "out", "train", shards=6)


def test_damage_is_named(plain, tmp_path):
    out = tmp_path / "out"
    first, _ = write_split(open_source(plain, "all"), out, "train", shards=2)
    data = bytearray(first.read_bytes())
    data[40] ^= 1
    first.write_bytes(data)
    with pytest.raises(UserError, match=r"train-00000-of-00002\.tfrecord: the record at byte 12 is damaged"):
        open_source(out, "train").photo(0)
    first.write_bytes(data[:-5])
    with pytest.raises(
        UserError, match=r"train-00000-of-00002\.tfrecord: record 2 at byte \d+ is damaged or cut off"
    ):
        open_source(out, "train")
    first.unlink()
    assert open_source(out, "train").missing == ("train-00000-of-00002.tfrecord",)
    (out / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"classes\.txt is missing, so nothing says"):
        open_source(out, "train")
    with pytest.raises(UserError, match=r"no val-\*\.tfrecord; splits found: train"):
        open_source(out, "val")


def test_numbers_of_any_size_survive():
    values = {"a": 0, "b": 127, "c": 128, "d": -1, "e": 1 << 40, "f": b"", "g": b"x" * 300}
    assert decode_example(encode_example(values)) == values
