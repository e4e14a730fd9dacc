"""Photos of every kind become the right 8-bit RGB, or are refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab.errors import UserError
from deeplab.imaging.photos import as_photo, find_photos, read_photo

RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [200, 100, 50], [7, 7, 7]]], np.uint8)
EXIF_ORIENTATION = 0x0112


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(folder: Path, *inputs: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_photos([str(folder / i) for i in inputs])]


def test_find_photos_in_files_folders_and_globs(tmp_path: Path) -> None:
    write(
        tmp_path,
        "b.jpg",
        "a.PNG",
        "notes.txt",
        "sub/c.tiff",
        "sub/deep/d.webp",
        ".hidden.jpg",
        ".trash/e.jpg",
        "x.dat",
    )
    everything = ["a.PNG", "b.jpg", "sub/c.tiff", "sub/deep/d.webp"]
    assert found(tmp_path, "") == everything
    assert found(tmp_path, "x.dat") == ["x.dat"]
    assert found(tmp_path, "*.jpg") == ["b.jpg"]
    assert found(tmp_path, "**/*.t*") == ["sub/c.tiff"]
    assert found(tmp_path, "**") == everything
    assert found(tmp_path, "s?b") == ["sub/c.tiff", "sub/deep/d.webp"]


def test_find_photos_keeps_order_and_drops_repeats(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    assert found(tmp_path, "c.jpg", "*.jpg", "./a.jpg", "") == ["c.jpg", "a.jpg", "b.jpg"]


def test_find_photos_prefers_a_file_to_a_pattern(tmp_path: Path) -> None:
    write(tmp_path, "img[1].jpg", "img1.jpg")
    assert found(tmp_path, "img[1].jpg") == ["img[1].jpg"]


def test_find_photos_takes_one_path_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert find_photos(tmp_path / "a.jpg") == [tmp_path / "a.jpg"]
    assert find_photos("~/a.jpg") == [tmp_path / "a.jpg"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("absent.jpg", r"absent\.jpg': no such file or folder"),
        ("*.gif", r"\*\.gif': no photo found .*\.jpeg"),
        ("empty", "empty': no photo found"),
    ],
)
def test_find_photos_names_the_input_without_photos(tmp_path: Path, given: str, message: str) -> None:
    write(tmp_path, "a.jpg", "empty/readme.md")
    with pytest.raises(UserError, match=message):
        find_photos([str(tmp_path / "a.jpg"), str(tmp_path / given)])


def test_find_photos_wants_an_input() -> None:
    with pytest.raises(UserError, match="no input"):
        find_photos([])


def saved(folder: Path, image: Image.Image, name: str, **options: object) -> np.ndarray:
    image.save(folder / name, **options)
    photo = read_photo(folder / name)
    assert photo.dtype == np.uint8
    assert photo.flags.c_contiguous
    assert photo.flags.writeable
    return photo


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm"])
def test_rgb_is_read_as_it_is(tmp_path: Path, name: str) -> None:
    np.testing.assert_array_equal(saved(tmp_path, Image.fromarray(RGB), name), RGB)


# What a viewer must do to the stored pixels for each EXIF orientation (EXIF 2.32, tag 274).
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    photo = saved(tmp_path, Image.fromarray(RGB), f"a.{suffix}", exif=exif, **options)
    np.testing.assert_array_equal(photo, UPRIGHT[orientation](RGB))


def test_exif_rotation_of_a_jpeg_and_of_a_pil_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, :16] = 255
    photo = saved(tmp_path, Image.fromarray(wide), "a.jpg", exif=exif, quality=95)
    assert photo.shape == (32, 16, 3)
    assert photo[:12].min() > 240
    assert photo[20:].max() < 15
    np.testing.assert_array_equal(as_photo(Image.open(tmp_path / "a.jpg")), photo)


def test_unreadable_exif_does_not_lose_the_photo(tmp_path: Path) -> None:
    photo = saved(tmp_path, Image.fromarray(RGB), "a.png", exif=b"Exif\x00\x00garbage that is no TIFF header")
    np.testing.assert_array_equal(photo, RGB)


def test_grey_and_one_bit(tmp_path: Path) -> None:
    grey = np.array([[0, 100, 255]], np.uint8)
    np.testing.assert_array_equal(saved(tmp_path, Image.fromarray(grey), "l.png")[..., 1], grey)
    bits = saved(tmp_path, Image.fromarray(np.array([[True, False]])), "1.png")
    assert bits.tolist() == [[[255, 255, 255], [0, 0, 0]]]


def test_16_bit_grey_is_scaled_not_cut(tmp_path: Path) -> None:
    stored = np.array([[0, 200, 257, 128 * 257 + 129, 65406, 65535]], np.uint16)
    expected = [[v] * 3 for v in (0, 1, 1, 129, 254, 255)]
    for name in ("g.png", "g.tif"):
        assert saved(tmp_path, Image.fromarray(stored), name)[0].tolist() == expected
    (tmp_path / "g.pgm").write_bytes(b"P5 6 1 65535\n" + stored.astype(">u2").tobytes())
    assert read_photo(tmp_path / "g.pgm")[0].tolist() == expected


def test_32_bit_integers_are_refused_by_name(tmp_path: Path) -> None:
    # 0 to 254 would be black and one grey, as if it were of 16 bits
    for values in ([[0, 254]], [[70000, -5]]):
        with pytest.raises(UserError, match=r"i\.tif: 32-bit integers have no defined 8-bit meaning"):
            saved(tmp_path, Image.fromarray(np.array(values, np.int32)), "i.tif")


def test_floats_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"f\.tif: pixels of mode 'F' .*floats.*8-bit"):
        saved(tmp_path, Image.fromarray(np.ones((2, 2), np.float32)), "f.tif")


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([200, 10, 10, 20, 210, 20, 30, 30, 220])
    plain = [[200, 10, 10], [20, 210, 20], [30, 30, 220]]
    assert saved(tmp_path, image, "p.png")[0].tolist() == plain
    assert saved(tmp_path, image, "t.png", transparency=1)[0].tolist() == [plain[0], [255] * 3, plain[2]]
    assert saved(tmp_path, image, "t.gif", transparency=1)[0].tolist() == [plain[0], [255] * 3, plain[2]]


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    # 51 / 255 = 0.2 opaque: 0.2 * colour + 0.8 * 255.
    rgba = np.array([[[100, 0, 250, 255], [100, 0, 250, 0], [100, 0, 250, 51]]], np.uint8)
    expected = [[100, 0, 250], [255, 255, 255], [224, 204, 254]]
    assert saved(tmp_path, Image.fromarray(rgba), "rgba.png")[0].tolist() == expected
    assert as_photo(rgba)[0].tolist() == expected
    la = Image.fromarray(rgba[..., [1, 3]])
    assert la.mode == "LA"
    assert saved(tmp_path, la, "la.png")[0, :, 0].tolist() == [0, 255, 204]


def test_transparent_colour_of_rgb_becomes_white(tmp_path: Path) -> None:
    photo = saved(tmp_path, Image.fromarray(RGB), "rgb.png", transparency=(0, 255, 0))
    assert photo[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]


def test_cmyk_is_not_inverted(tmp_path: Path) -> None:
    # Adobe stores CMYK JPEGs inverted; cyan ink on paper must come back as cyan, not red.
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for name in ("c.tif", "c.jpg"):
        red, green, blue = saved(tmp_path, cyan, name).reshape(-1, 3).mean(axis=0)
        assert red < 5
        assert min(green, blue) > 250


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    for name, options in {"a.gif": {}, "a.png": {}, "a.webp": {"lossless": True}, "a.tif": {}}.items():
        photo = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options)
        assert photo.shape == (3, 4, 3)
        assert (photo == (255, 0, 0)).all()


def png_bytes() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


def jpeg_bytes() -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(png_bytes())).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zero.jpg", b"", r"the file is empty \(0 bytes\)"),
        ("text.jpg", b"hello", "not a picture"),
        ("phone.HEIC", b"\0\0\0\x18ftypheic", "HEIC photos cannot be read"),
        ("renamed.jpg", b"\0\0\0\x18ftypheic", "HEIC photos cannot be read"),
        ("cut.png", png_bytes()[:3000], "damaged or cut off"),
        ("cut.jpg", jpeg_bytes()[:1500], "damaged or cut off"),
        ("head.jpg", jpeg_bytes()[:100], "cannot be read|not a picture|damaged"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: .*({message})"):
        read_photo(tmp_path / name)


def test_flipped_bytes_never_escape_as_other_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for i in range(60):
        content = bytearray((png_bytes, jpeg_bytes)[i % 2]()[:4000])
        for place in rng.integers(0, 300, 12):
            content[place] = int(rng.integers(0, 256))
        (tmp_path / "damaged.png").write_bytes(content)
        try:
            assert read_photo(tmp_path / "damaged.png").dtype == np.uint8
        except UserError as error:
            assert "damaged.png" in str(error)


def test_missing_files_folders_and_bombs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"absent\.jpg: cannot be read \(No such file"):
        read_photo(tmp_path / "absent.jpg")
    with pytest.raises(UserError, match="is a folder"):
        read_photo(tmp_path)
    Image.new("1", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(UserError, match=r"bomb\.png: too large .*MAX_IMAGE_PIXELS"):
        read_photo(tmp_path / "bomb.png")


def test_as_photo_takes_arrays_and_pil_images() -> None:
    np.testing.assert_array_equal(as_photo(RGB), RGB)
    np.testing.assert_array_equal(as_photo(Image.fromarray(RGB)), RGB)
    np.testing.assert_array_equal(as_photo(RGB[:, ::-1]), RGB[:, ::-1])
    grey = np.array([[3, 200]], np.uint8)
    for shape in ((1, 2), (1, 2, 1)):
        assert as_photo(grey.reshape(shape)).tolist() == [[[3] * 3, [200] * 3]]


def test_as_photo_gives_arrays_that_can_be_written_to() -> None:
    frozen = RGB.copy()
    frozen.setflags(write=False)
    for image in (frozen, RGB[:, ::-1], RGB[..., 0], Image.fromarray(RGB)):
        photo = as_photo(image)
        assert photo.flags.writeable
        assert photo.flags.c_contiguous


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 2, 3), np.float32), r"dtype float32 and shape \[2, 2, 3\].*\* 255"),
        (np.zeros((3, 8, 9), np.uint8), r"shape \[3, 8, 9\].*transpose\(1, 2, 0\)"),
        (np.zeros((2, 8, 9), np.uint8), r"shape \[2, 8, 9\]"),
        (np.zeros((1, 8, 9, 3), np.uint8), r"shape \[1, 8, 9, 3\]"),
        (np.zeros((0, 9, 3), np.uint8), "at least one pixel"),
        (np.uint8(3) * np.ones(4, np.uint8), r"shape \[4\]"),
        ([[1, 2]], "not list"),
        (None, "not NoneType"),
    ],
)
def test_as_photo_names_what_it_refuses(image: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_photo(image)
