"""Bands are read as they are stored, by whoever keeps all bits; everything else is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.banded_photos import FOUR, write_tiff

from deeplab.errors import UserError
from deeplab.imaging.bands import Bands, as_bands, read_stored, tiff_header, viewable
from deeplab.imaging.photos import as_photo, photo_from_bytes, read_photo

RANDOM = np.random.default_rng(0)
INFRARED = RANDOM.integers(0, 256, (6, 9, 4), dtype=np.uint8)
WIDE = RANDOM.integers(0, 65536, (6, 9, 5), dtype=np.uint16)
FLOATS = RANDOM.normal(0, 3, (6, 9, 2)).astype(np.float32)


@pytest.mark.parametrize(
    ("stored", "options"),
    [
        (INFRARED, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
        (INFRARED, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (INFRARED, {"photometric": "rgb", "extrasamples": ["unspecified"], "compression": "zlib"}),
        (WIDE, {}),
        (WIDE, {"bigtiff": True, "byteorder": ">"}),
        (WIDE, {"tile": (16, 16)}),
        (WIDE[..., :3], {"photometric": "rgb"}),
        (WIDE[..., :1], {}),
        (FLOATS, {}),
        (FLOATS[..., :1], {}),
    ],
)
def test_tiffs_come_back_as_they_were_stored(
    stored: np.ndarray, options: dict[str, Any], tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "a.tif", stored, **options)
    found = read_stored(path)
    assert found.dtype == stored.dtype
    np.testing.assert_array_equal(found, stored)
    np.testing.assert_array_equal(read_stored(path.read_bytes(), name="a.tif"), stored)
    header = tiff_header(path)
    assert header is not None and header.bands == stored.shape[2] and header.kind == stored.dtype.name


def test_planes_and_pages_are_bands(tmp_path: Path) -> None:
    planes = np.moveaxis(WIDE, 2, 0)
    for name, options in {"planes": {"planarconfig": "separate"}, "pages": {}}.items():
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(tmp_path / f"{name}.tif", planes, photometric="minisblack", **options)
        np.testing.assert_array_equal(read_stored(tmp_path / f"{name}.tif"), WIDE)


def test_other_types_become_floats_where_these_hold_them(tmp_path: Path) -> None:
    for dtype in (np.int16, np.float16, np.float64):
        stored = RANDOM.integers(-300, 300, (4, 5, 1)).astype(dtype)
        found = read_stored(write_tiff(tmp_path / "a.tif", stored))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, stored.astype(np.float32))
    path = write_tiff(tmp_path / "b.tif", np.ones((4, 5, 1), np.int32))
    with pytest.raises(UserError, match=r"b\.tif: holds values of int32.*allowed: uint8, uint16"):
        read_stored(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_bands_are_turned_upright_as_photos_are(orientation: int, tmp_path: Path) -> None:
    rgb = RANDOM.integers(0, 256, (4, 7, 3), dtype=np.uint8)
    tag = (274, "H", 1, orientation, True)
    tiff = write_tiff(tmp_path / "a.tif", rgb, photometric="rgb", extratags=[tag])
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    for path in (tiff, tmp_path / "a.png"):
        np.testing.assert_array_equal(read_stored(path), read_photo(path))


def test_pictures_that_pillow_keeps_whole_need_no_tifffile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    thermal = RANDOM.integers(7000, 8200, (4, 6), dtype=np.uint16)
    Image.fromarray(thermal).save(tmp_path / "a.png")
    assert read_stored(tmp_path / "a.png").dtype == np.uint16
    np.testing.assert_array_equal(read_stored(tmp_path / "a.png")[..., 0], thermal)
    Image.fromarray(INFRARED).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_stored(tmp_path / "b.png"), INFRARED)
    Image.fromarray(thermal).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif: this needs .*'tifffile'.*\[tiff\]"):
        read_stored(tmp_path / "a.tif")
    Image.fromarray(INFRARED[..., 0]).convert("P").save(tmp_path / "p.png")
    with pytest.raises(UserError, match=r"p\.png: is a picture of mode 'P', which has no bands"):
        read_stored(tmp_path / "p.png")


def test_a_model_takes_its_own_bands_alone(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "four.tif", WIDE[..., :4] // 8)
    wanted = Bands(FOUR, "uint16", (0, 8191))
    for image in (path, str(path), WIDE[..., :4] // 8):
        taken = as_photo(image, wanted)
        assert taken.dtype == np.uint16 and taken.flags.c_contiguous and taken.flags.writeable
        np.testing.assert_array_equal(taken, WIDE[..., :4] // 8)
    write_tiff(tmp_path / "five.tif", WIDE)
    write_tiff(tmp_path / "bytes.tif", INFRARED, photometric="rgb")
    Image.fromarray(INFRARED[..., :3]).save(tmp_path / "rgb.jpg")
    for name, found in {
        "five.tif": "5 bands of uint16",
        "bytes.tif": "4 bands of uint8",
        "rgb.jpg": "3 bands of uint8",
    }.items():
        with pytest.raises(
            UserError, match=rf"{name}: has {found}; allowed: 4 of uint16 \(red, green, blue, infrared\)"
        ):
            read_photo(tmp_path / name, wanted)
    with pytest.raises(
        UserError, match=r"wide\.tif: holds \d+ to \d+; allowed: 0 to 8191, the range .*fix: scale it"
    ):
        read_photo(write_tiff(tmp_path / "wide.tif", WIDE[..., :4]), wanted)
    gaps = FLOATS.copy()
    gaps[2, 3, 1] = np.nan
    with pytest.raises(UserError, match=r"gaps\.tif: holds NaN or infinity; fix: fill places without data"):
        read_photo(write_tiff(tmp_path / "gaps.tif", gaps), Bands(("vv", "vh"), "float32"))
    with pytest.raises(UserError, match=r"the shape \[2, 3, 4, 5\]"):
        as_bands(np.zeros((2, 3, 4, 5), np.uint8), wanted)


@pytest.mark.parametrize(
    ("stored", "options", "message"),
    [
        (
            INFRARED,
            {"photometric": "rgb", "extrasamples": ["unspecified"]},
            "has 4 bands, 1 more than colours",
        ),
        (
            INFRARED,
            {"photometric": "rgb", "extrasamples": ["unassalpha"]},
            "would be blended with white by its last band",
        ),
        (
            WIDE[..., :4],
            {"photometric": "rgb", "extrasamples": ["unspecified"]},
            "has 4 bands, 1 more than colours",
        ),
        (INFRARED[..., :2], {}, "has 2 bands, 1 more than colours"),
        (WIDE, {}, "holds 5 bands of uint16, which are no 8-bit RGB"),
        (WIDE[..., :3] // 40, {"photometric": "rgb"}, "of its 16 bits 8-bit RGB has 7 levels"),
        (
            WIDE[..., :1] // 40,
            {},
            r"of its 16 bits, \d+ to \d+, 8-bit RGB has 7 levels; fix: scale all photos alike",
        ),
    ],
)
def test_8_bit_rgb_is_made_of_nothing_that_it_would_lose(
    stored: np.ndarray, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "a.tif", stored, **options)
    with pytest.raises(UserError, match=rf"a\.tif: {message}"):
        read_photo(path)
    with pytest.raises(UserError, match=rf"sent: {message}"):
        photo_from_bytes(path.read_bytes(), name="sent")


def test_8_bit_rgb_is_not_the_first_of_bands_on_pages(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(INFRARED, 2, 0), photometric="minisblack")
    with pytest.raises(UserError, match=r"a\.tif: has bands on pages, of which one would be read"):
        read_photo(tmp_path / "a.tif")


def test_16_bits_of_one_tone_or_of_8_bits_lose_nothing(tmp_path: Path) -> None:
    for values in ([[7000, 7000]], [[30 * 257, 31 * 257]], [[0, 65535]]):
        Image.fromarray(np.array(values, np.uint16)).save(tmp_path / "a.png")
        assert read_photo(tmp_path / "a.png").shape == (1, 2, 3)


@pytest.mark.parametrize("content", [b"II*\0", b"II*\0\x08\0\0\0\xff\xff" + b"x" * 64, b"MM\0+" + b"\0" * 40])
def test_damaged_tiffs_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    for read in (read_photo, read_stored):
        with pytest.raises(UserError, match=r"a\.tif: "):
            read(tmp_path / "a.tif")


def test_more_than_memory_may_hold_is_refused_by_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiff(tmp_path / "a.tif", WIDE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 33)
    with pytest.raises(UserError, match=r"a\.tif: 9 x 6 pixels of 5 bands are too many"):
        read_stored(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 34)
    assert read_stored(path).shape == (6, 9, 5)


def test_a_person_sees_the_first_bands_stretched() -> None:
    rgb = INFRARED[..., :3]
    assert viewable(rgb) is rgb
    np.testing.assert_array_equal(viewable(INFRARED), rgb)
    ramp = np.linspace(7000, 8000, 101).astype(np.uint16)[None, :, None]
    seen = viewable(ramp)
    assert seen.shape == (1, 101, 3) and (seen[..., 0] == seen[..., 2]).all()
    # from the 2nd to the 98th percentile
    assert seen[0, [0, 2, 50, 98, 100], 0].tolist() == [0, 0, 128, 255, 255]
    assert viewable(np.full((2, 2, 1), 5, np.float32)).tolist() == [[[0] * 3] * 2] * 2
