"""Find photos on disk and turn whatever they are into 8-bit RGB.

Every kind of picture is either converted by a rule written here or refused by name: a network fed with a
silently wrong photo answers with confident nonsense.

The rules: EXIF rotation is applied. Transparency is composited on white (what a viewer shows; the colours
hidden under transparent pixels are usually black). 16 bits are scaled by 1/257, so that 65535 becomes
255. An animation gives its first frame, a multi-page TIFF its first page. Colour profiles are ignored, as
they were for the data sets that the models learned from.

Refused are photos of which that would lose what they show: bands beside grey or colours that are no transparency, pages
that are bands, and 16 bits of so small a range that few levels would be left. Models that read such bands
as they are take them through `deeplab.imaging.bands`.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deeplab.errors import UserError
from deeplab.imaging.bands import (
    ALPHA,
    COLOURS,
    EXTRA,
    PHOTOMETRIC,
    SAMPLES,
    Bands,
    as_bands,
    has_wide_colours,
    read_stored,
    tiff_header,
)
from deeplab.imaging.pictures import opened_picture, strips
from deeplab.system.reading import beginning

# HEIC is listed although Pillow alone cannot read it: a phone's photos must not vanish without a word.
PHOTO_SUFFIXES = frozenset(
    {
        ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg", ".jpg",
        ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
    }
)  # fmt: skip
_WIDE_GREY_MAX = 65535
# 16 bits become 8 by division by this; fewer levels than this are posters, not photos
STEP, FEW_LEVELS = 257, 64
# of transparency in most of a photo; more are a picture of their own, such as infrared
MOST_SHADES = 16
ITS_BANDS = (
    "save its colours alone as 8-bit RGB, or train a model that reads its bands (deeplab data check says how)"
)
_EMPTY = "the file is empty (0 bytes)"
# the second box of such a file
_HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc")
# the EXIF tag and its usual value
_ORIENTATION, _UPRIGHT = 0x0112, 1
_CONVERTIBLE_MODES = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})

PhotoLike = str | os.PathLike[str] | Image.Image | np.ndarray


def find_photos(
    inputs: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    suffixes: frozenset[str] = PHOTO_SUFFIXES,
) -> list[Path]:
    """List the photos that files, folders and globs stand for.

    A file named outright is taken whatever its suffix. A folder is searched with all its subfolders (links
    to folders are not followed) for names with one of the suffixes; hidden files and
    folders are left out. A glob (`*`, `?`, `[...]`, `**`) is treated as a shell would: its files by suffix,
    its folders searched.

    Returns:
        Paths as they were given, sorted within each input, inputs in their order, each photo once.

    Raises:
        UserError: nothing given, or an input that exists nowhere or holds no photo.
    """
    given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if not given:
        raise UserError("no input: name at least one photo, folder or glob")
    by_place: dict[str, Path] = {}
    for item in given:
        for photo in _photos_of(os.path.expanduser(os.fspath(item)), suffixes):
            by_place.setdefault(os.path.abspath(photo), photo)
    return list(by_place.values())


def _photos_of(item: str, suffixes: frozenset[str]) -> list[Path]:
    if os.path.isfile(item):
        return [Path(item)]
    if os.path.isdir(item):
        photos = sorted(_photos_in_folder(item, suffixes))
    elif glob.has_magic(item):
        photos = sorted(_photos_in_glob(item, suffixes))
    else:
        raise UserError(f"{item!r}: no such file or folder")
    if not photos:
        raise UserError(
            f"{item!r}: no photo found there; looked for files ending in {' '.join(sorted(suffixes))}"
        )
    return photos


def _photos_in_folder(folder: str, suffixes: frozenset[str]) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: folder cannot be read ({error.strerror})") from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if _has_suffix(name, suffixes))


def _photos_in_glob(pattern: str, suffixes: frozenset[str]) -> Iterator[Path]:
    for match in glob.iglob(pattern, recursive=True):
        if os.path.isdir(match):
            yield from _photos_in_folder(match, suffixes)
        elif _has_suffix(os.path.basename(match), suffixes):
            yield Path(match)


def _has_suffix(name: str, suffixes: frozenset[str]) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes


class TooManyPixels(UserError):
    """A picture larger than its reader is ready for, which its header says: nothing was decoded."""


def read_photo(path: str | os.PathLike[str], bands: Bands | None = None) -> np.ndarray:
    """Read a photo file.

    Args:
        path: of the file.
        bands: how the model takes photos, see `deeplab.config.PixelConfig.read_as`; None for 8-bit RGB.

    Returns:
        uint8 [H, W, 3], RGB, 0..255, upright; contiguous and writable. The module docstring says how
        other kinds of picture become that. With `bands` see `deeplab.imaging.bands.as_bands`.

    Raises:
        UserError: missing, empty, not a picture, damaged, too large, of a kind that has no defined
            8-bit meaning (floats, 32-bit integers), or not of these bands. The message names the file and
            what is wrong.
    """
    name = os.fspath(path)
    _require_bytes(name)
    return _read(name, name=name) if bands is None else as_bands(read_stored(name, bands), bands, name=name)


def photo_from_bytes(
    content: bytes, *, name: str, formats: tuple[str, ...] | None = None, most_pixels: float = math.inf
) -> np.ndarray:
    """Read a photo from a file's bytes.

    Args:
        content: of the file.
        name: what messages call it.
        formats: Pillow's names of the formats to try; None tries all.
        most_pixels: more are refused by the header alone.

    Returns:
        see `read_photo`.

    Raises:
        TooManyPixels: more than `most_pixels`, or than Pillow ever decodes.
        UserError: as for `read_photo`.
    """
    if not content:
        raise UserError(_EMPTY, file=name)
    return _read(content, name=name, formats=formats, most_pixels=most_pixels)


def _read(
    source: str | bytes, *, name: str, formats: tuple[str, ...] | None = None, most_pixels: float = math.inf
) -> np.ndarray:
    if formats is not None:
        # it knows only the commonest before
        Image.init()
    try:
        with opened_picture(source, formats=formats) as image:
            if image.width * image.height > most_pixels:
                raise TooManyPixels(
                    f"{image.width} x {image.height} pixels are {image.width * image.height / 1e6:.3g} million",
                    allowed=f"{most_pixels / 1e6:.3g} million",
                    fix="shrink it",
                    file=name,
                )
            return _rgb_array(image, name=name)
    except UserError as error:
        raise error.within(name) from error.__cause__
    except UnidentifiedImageError as error:
        header = tiff_header(source)
        if header is not None:
            raise UserError(
                f"holds {header.bands} bands of {header.kind}, which are no 8-bit RGB",
                fix=ITS_BANDS,
                file=name,
            ) from error
        what = (
            "HEIC photos cannot be read"
            if _is_heic(source)
            else "not a picture, or a kind that cannot be read"
        )
        raise UserError(f"{what} (by Pillow)", fix="convert it to JPEG or PNG", file=name) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(
            f"too large to be read safely ({error})",
            fix="shrink it, or save it as TIFF, which deeplab predict --window labels part by part (extra geo); in "
            "Python raise PIL.Image.MAX_IMAGE_PIXELS if you trust it",
            file=name,
        ) from error
    # Damaged headers make Pillow raise nearly anything: OSError, ValueError, SyntaxError, struct.error.
    except Exception as error:
        raise UserError(f"cannot be read as a picture ({error})", file=name) from error


def _require_bytes(name: str) -> None:
    try:
        size = os.stat(name).st_size
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", file=name) from error
    if os.path.isdir(name):
        raise UserError("is a folder, not a photo", file=name)
    if size == 0:
        raise UserError(_EMPTY, file=name)


def _is_heic(source: str | bytes) -> bool:
    if isinstance(source, bytes):
        return source[4:12] in _HEIC
    # telephones' photos are renamed to .jpg, too
    return source.lower().endswith((".heic", ".heif")) or beginning(source, 12)[4:12] in _HEIC


def as_photo(image: PhotoLike, bands: Bands | None = None) -> np.ndarray:
    """Turn a path, a PIL image or an array into 8-bit RGB, or with `bands` into these.

    Args:
        image: a path (see `read_photo`); a PIL image (same rules, EXIF rotation included); or a uint8
            array 0..255 shaped [H, W] or [H, W, 1] (grey), [H, W, 3] (RGB), [H, W, 4] (RGBA, composited
            on white). RGB arrays are passed on without a copy where possible.
        bands: how the model takes photos; it takes paths, and arrays [H, W, bands] of their very type.

    Returns:
        uint8 [H, W, 3], RGB, 0..255, contiguous and writable; with `bands` see `deeplab.imaging.bands.as_bands`.

    Raises:
        UserError: another type, dtype or shape; it names the one found.
    """
    if isinstance(image, str | os.PathLike):
        return read_photo(image, bands)
    if bands is not None and isinstance(image, Image.Image):
        return as_bands(np.asarray(_upright(image)), bands, name="the PIL image")
    if isinstance(image, Image.Image):
        return _rgb_array(image, name="the PIL image")
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"a photo is a path, a PIL image or a uint8 numpy array, not {type(image).__name__}",
            fix="for a tensor [3, H, W] pass tensor.permute(1, 2, 0).numpy()",
        )
    return _rgb_from_array(image) if bands is None else as_bands(image, bands)


def _rgb_from_array(array: np.ndarray) -> np.ndarray:
    found = f"array of dtype {array.dtype} and shape {list(array.shape)}"
    if array.dtype != np.uint8:
        raise UserError(
            f"a photo array holds uint8 values 0..255, found an {found}",
            fix="for floats 0..1 pass (array * 255).round().astype('uint8')",
        )
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        planes_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        raise UserError(
            f"a photo array is [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], found an {found}",
            fix="array.transpose(1, 2, 0)" if planes_first else "",
        )
    if array.size == 0:
        raise UserError(f"a photo has at least one pixel, found an {found}")
    if channels == 3:
        return np.require(array, requirements=["C", "W"])
    if channels == 4:
        return _on_white(Image.fromarray(np.ascontiguousarray(array)), name="the photo array")
    return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)


def _rgb_array(image: Image.Image, *, name: str) -> np.ndarray:
    """uint8 [H, W, 3] of a PIL image in any mode; the file is decoded here."""
    if 0 in image.size:
        raise UserError(f"has no pixels (width {image.width}, height {image.height})", file=name)
    if image.mode == "I" and image.format == "TIFF":
        raise UserError(
            "32-bit integers have no defined 8-bit meaning", fix="save it as 8-bit or 16-bit PNG", file=name
        )
    hidden = hidden_bands(image)
    if hidden:
        raise UserError(hidden, fix=ITS_BANDS, file=name)
    wide = has_wide_colours(image)
    _decode(image, name=name)
    image = _upright(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_wide_grey(image, name=name)
    if wide:
        levels = int(np.ptp(np.asarray(image))) + 1
        _refuse_few_levels(levels, name=name, lost=levels > 1)
    if image.has_transparency_data:
        return _on_white(image, name=name)
    if image.mode not in _CONVERTIBLE_MODES:
        raise UserError(
            f"pixels of mode {image.mode!r} have no defined 8-bit meaning"
            f"{' (32-bit floats)' if image.mode == 'F' else ''}",
            fix="save it as 8-bit or 16-bit PNG",
            file=name,
        )
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _decode(image: Image.Image, *, name: str) -> None:
    try:
        image.load()
    # As above: each decoder fails in its own way.
    except Exception as error:
        raise UserError(f"the picture is damaged or cut off ({error})", file=name) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        # an upright photo would be copied
        turned = image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT
        return ImageOps.exif_transpose(image) if turned else image
    # Unreadable EXIF data says nothing about the pixels; such a photo is taken as it is stored.
    except Exception:
        return image


def _from_wide_grey(image: Image.Image, *, name: str) -> np.ndarray:
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _WIDE_GREY_MAX:
        raise UserError(
            f"integer pixels run from {low} to {high}, beyond 16 bits (0..{_WIDE_GREY_MAX})",
            fix="scale them and save as 8-bit or 16-bit PNG",
            file=name,
        )
    levels = (high + STEP // 2) // STEP - (low + STEP // 2) // STEP + 1
    differ = levels < FEW_LEVELS and len(np.unique(values)) > 2 * levels
    _refuse_few_levels(levels, name=name, lost=bool(differ), held=f", {low} to {high},")
    photo = np.empty((*values.shape, 3), np.uint8)
    for start, end in strips(image.width, image.height):
        photo[start:end] = ((values[start:end].astype(np.int32) + STEP // 2) // STEP)[..., None]
    return photo


def hidden_bands(image: Image.Image) -> str:
    """Which bands of an opened TIFF are neither colours nor said to be transparency, in words; '' for none.

    They lie beside the colours, or on further pages of the same kind.
    """
    tags: Any = getattr(image, "tag_v2", {})
    samples, extra = tags.get(SAMPLES, 1), tags.get(EXTRA, ())
    beyond = samples - COLOURS.get(tags.get(PHOTOMETRIC), samples)
    if beyond > 0 and not (beyond == 1 and extra in ALPHA):
        return f"has {samples} bands, {beyond} more than colours, and they are not said to be transparency"
    if tags and samples == 1 and image.mode != "P" and getattr(image, "n_frames", 1) > 1:
        kind = image.size, image.mode
        image.seek(1)
        alike = (image.size, image.mode) == kind
        image.seek(0)
        if alike:
            return "has bands on pages, of which one would be read"
    return ""


def _refuse_few_levels(levels: int, *, name: str, lost: bool, held: str = "") -> None:
    """16 bits of which 8 would keep so many levels; `lost` says whether more than these differ."""
    if lost and levels < FEW_LEVELS:
        raise UserError(
            f"of its 16 bits{held} 8-bit RGB has {levels} levels",
            fix="scale all photos alike, so that the sensor's range fills 0 to 65535, or train a model that reads 16 "
            "bits (deeplab data check says how)",
            file=name,
        )


def _on_white(image: Image.Image, *, name: str) -> np.ndarray:
    histogram = np.zeros(256, int)
    photo = np.empty((image.height, image.width, 3), np.uint8)
    for start, end in strips(image.width, image.height):
        rgba = image.crop((0, start, image.width, end)).convert("RGBA")
        histogram += rgba.getchannel("A").histogram()
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        photo[start:end] = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    between = histogram[1:-1]
    if 2 * sum(between) > sum(histogram) and sum(count > 0 for count in between) > MOST_SHADES:
        raise UserError(
            "would be blended with white by its last band, which is neither clear nor opaque in most of its pixels",
            fix=ITS_BANDS,
            file=name,
        )
    return photo
