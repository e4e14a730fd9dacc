"""Pictures larger than memory, read part by part: TIFF of any kind (extra `geo`) and whole slides (extra `slides`).

Values come as they are stored. Transparency and places without data are a mask, not values.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import TiffImagePlugin

from deeplab.errors import UserError, require
from deeplab.imaging.bands import tiff_header
from deeplab.system.reading import beginning

# as photos, that many are held whole
MOST_PHOTO_PIXELS = 64_000_000
# where on the ground a pixel lies, and which value is none
WIDTH, HEIGHT, GEO_TAGS = 256, 257, (33550, 34264, 34735, 42113, 50844)
WORLD_FILES = (".tfw", ".tifw", ".wld")
BIG_TIFF = (b"II+\0", b"MM\0+")
TIFF = (b"II*\0", b"MM\0*", *BIG_TIFF)
TIFF_SUFFIXES = frozenset({".tif", ".tiff", ".gtiff", ".tf8", ".btf"})
# what comes before the picture in a JPEG 2000, and how it says where that lies: GeoJP2's identity, and GMLJP2's label
JP2_SUFFIX, JP2_HEADER, JP2_GEO = (
    ".jp2",
    1 << 16,
    (bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03"), b"gml.data"),
)
SLIDE_SUFFIXES = frozenset(
    {".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".czi"}
)
# wider ones make reading take as long as labelling
WIDEST_STRIP = 8000
# of GDAL's blocks, which lie scattered in the heap and make it grow: a window's, of which a wide row is more; rasterio
# counts bytes, where GDAL itself would take so small a number for megabytes
CACHE_BYTES, MOST_CACHE_BYTES, USUAL_WINDOW = 24 << 20, 64 << 20, 1280
BESIDE = (".ovr", ".msk")


class Scene(Protocol):
    """A picture to be read part by part.

    Attributes:
        path: of its file.
        size: height and width.
        bands: what its bands are called, transparency left out.
    """

    path: Path
    size: tuple[int, int]
    bands: Sequence[str]

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Values as they are stored, [height, width, bands]."""

    def mask(self, top: int, left: int, height: int, width: int) -> np.ndarray | None:
        """bool [height, width], where there is data; None is everywhere."""

    def preview(self, longest: int) -> np.ndarray:
        """The whole picture with sides of at most so many pixels, [H, W, bands]."""

    def placed(self) -> Place:
        """What a raster of the same size takes over from it."""


class Place(NamedTuple):
    """Where a picture lies.

    Attributes:
        profile: what rasterio writes: the coordinate system, and the transform from pixels to it.
        tags: further ones of the file.
    """

    profile: dict[str, Any]
    tags: dict[str, str]


def is_scene(path: Path, content: bytes | None = None) -> bool:
    """Whether a file is read part by part: slides; TIFF and JPEG 2000 on the ground, or too large for a photo.

    Args:
        path: of the file, or its name where it is none.
        content: its bytes then.
    """
    suffix = path.suffix.lower()
    if suffix not in TIFF_SUFFIXES and suffix != JP2_SUFFIX:
        return suffix in SLIDE_SUFFIXES
    try:
        if suffix == JP2_SUFFIX:
            start = beginning(path, JP2_HEADER) if content is None else content[:JP2_HEADER]
            start = start.partition(b"jp2c")[0]
            height, width = struct.unpack_from(">II", start, start.index(b"ihdr") + 4)
            return height * width > MOST_PHOTO_PIXELS or any(mark in start for mark in JP2_GEO)
        with path.open("rb") if content is None else BytesIO(content) as file:
            header = file.read(16)
            if header[:4] not in TIFF:
                return False
            if header[:4] in BIG_TIFF:
                return True
            tags = TiffImagePlugin.ImageFileDirectory_v2(header[:8])
            file.seek(tags.next)
            tags.load(file)
    # damaged files are the photo reader's to refuse
    except Exception:
        return False
    pixels = int(tags.get(WIDTH, 0)) * int(tags.get(HEIGHT, 0))
    on_the_ground = any(tag in tags for tag in GEO_TAGS) or any(
        path.with_suffix(beside).exists() for beside in WORLD_FILES
    )
    return pixels > MOST_PHOTO_PIXELS or on_the_ground


@contextmanager
def open_scene(path: Path, *, bands: Sequence[int] = (), level: int = 0) -> Iterator[Scene]:
    """A scene to read from.

    Args:
        path: of the file.
        bands: numbers of those to read, from 1, in order; none reads all.
        level: of a slide, 0 is the finest.

    Raises:
        UserError: the extra is not installed, the file cannot be read, or has no such band or level.
    """
    if path.suffix.lower() in SLIDE_SUFFIXES:
        openslide: Any = require("openslide", extra="slides")
        try:
            with openslide.OpenSlide(path) as slide:
                yield _Slide(path, slide, level)
        except openslide.OpenSlideError as error:
            again = "it is damaged, was cut off where it was copied, or its other files are missing: get all again"
            raise UserError(f"cannot be read as a slide ({error})", fix=again, file=path) from error
        return
    _refuse_pointers(path)
    with rasterio_alone() as rasterio:
        try:
            # other drivers follow what a file says of files elsewhere
            driver = "JP2OpenJPEG" if path.suffix.lower() == JP2_SUFFIX else "GTiff"
            with rasterio.open(path, driver=driver) as source:
                if found := [each for each in source.dtypes if each.startswith("complex")]:
                    raise UserError(
                        f"holds values of type {found[0]}",
                        allowed="real numbers",
                        fix=f"gdal_translate DERIVED_SUBDATASET:AMPLITUDE:{path.name} amplitude.tif",
                        file=path,
                    )
                rasterio.env.setenv(GDAL_CACHEMAX=_cache_of(source))
                yield _Raster(path, source, bands)
        except UnicodeEncodeError as error:
            raise UserError("its name is no UTF-8, as GDAL wants it", fix="rename it", file=path) from error
        except rasterio.errors.RasterioError as error:
            raise UserError(
                f"cannot be read as a raster ({error.__cause__ or error})",
                fix="it is damaged or was cut off where it was copied: get it again",
                file=path,
            ) from error


@contextmanager
def rasterio_alone() -> Iterator[Any]:
    """Rasterio, with bounded memory, that fetches nothing from anywhere.

    Raises:
        UserError: the extra is not installed.
    """
    rasterio: Any = require("rasterio", extra="geo")
    options = {"GDAL_CACHEMAX": CACHE_BYTES, "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none"}
    with rasterio.Env(**options), warnings.catch_warnings():
        # a picture need not lie on the ground, and transparency counts beside nodata
        for usual in (rasterio.errors.NotGeoreferencedWarning, rasterio.errors.NodataShadowWarning):
            warnings.simplefilter("ignore", usual)
        yield rasterio


def _pixel_bytes(source: Any) -> int:
    """Of all bands: a tile is decoded with all of them, whichever are wanted."""
    return int(source.count * np.dtype(source.dtypes[0]).itemsize)


def _cache_of(source: Any) -> int:
    """Bytes of the blocks that a window touches: its bands, its mask and the next window read them again."""
    tall, wide = ((USUAL_WINDOW // side + 2) * side for side in source.block_shapes[0])
    needed = _pixel_bytes(source) * tall * min(wide, source.width)
    return min(MOST_CACHE_BYTES, max(CACHE_BYTES, needed))


def _refuse_pointers(path: Path) -> None:
    """GDAL opens what is called like a raster's overviews or mask by content, and some contents are addresses."""
    names = {f"{path.name}{ending}".casefold() for ending in BESIDE}
    for each in path.parent.iterdir():
        if each.name.casefold() in names and beginning(each, 4) not in TIFF:
            raise UserError(
                "is no TIFF, and may point to anything",
                fix=f"move it away, {path.name} is read without it",
                file=each,
            )


class _Raster:
    """What rasterio reads."""

    def __init__(self, path: Path, source: Any, bands: Sequence[int]) -> None:
        self.path, self._source = path, source
        self.size: tuple[int, int] = (source.height, source.width)
        alpha = [
            band
            for band, kind in zip(source.indexes, source.colorinterp, strict=True)
            if kind.name == "alpha"
        ]
        self._bands = list(bands) or [band for band in source.indexes if band not in alpha]
        if missing := set(self._bands) - set(source.indexes):
            raise UserError(
                f"has no band {min(missing)}", allowed=f"1 to {source.count}", fix="--bands", file=path
            )
        self._colours = _colours(source, self._bands[0]) if len(self._bands) == 1 else None
        names = (source.descriptions[band - 1] or f"band {band}" for band in self._bands)
        self.bands: Sequence[str] = tuple(names) if self._colours is None else ("red", "green", "blue")
        flags = {flag.name for band in self._bands for flag in source.mask_flag_enums[band - 1]}
        # who names it wants what it holds; and where a value stands for no data, GDAL's masks say nothing of it
        self._clear = None if not alpha or alpha[0] in self._bands else alpha[0]
        self._masked = "nodata" in flags or flags == {"per_dataset"}
        _warn_of(path, source)

    def _window(
        self, top: int, left: int, height: int, width: int
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        return (top, top + height), (left, left + width)

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        return self._values(window=self._window(top, left, height, width))

    def mask(self, top: int, left: int, height: int, width: int) -> np.ndarray | None:
        window, mask = self._window(top, left, height, width), None
        if self._masked:
            mask = self._source.read_masks(self._bands, window=window).any(axis=0)
        if self._clear is not None:
            opaque = self._source.read(self._clear, window=window) > 0
            mask = opaque if mask is None else mask & opaque
        return mask

    def preview(self, longest: int) -> np.ndarray:
        height, width = shrunk(self.size, longest)
        tall, wide = self._source.block_shapes[0]
        row = _pixel_bytes(self._source) * tall * self.size[1]
        # a row of tiles that the cache does not hold whole would be decoded anew for each line of the preview
        panels = 1 if wide >= self.size[1] else min(width, -(-2 * row // CACHE_BYTES))
        ends = [width * panel // panels for panel in range(panels + 1)]
        parts = []
        for left, right in pairwise(ends):
            columns = left * self.size[1] / width, right * self.size[1] / width
            shape = len(self._bands), height, right - left
            parts.append(self._values(window=((0, self.size[0]), columns), out_shape=shape))
        return np.concatenate(parts, axis=1)

    def _values(self, **which: Any) -> np.ndarray:
        found = self._source.read(self._bands, **which)
        # a number of a palette is no brightness
        return (
            np.ascontiguousarray(np.moveaxis(found, 0, -1))
            if self._colours is None
            else self._colours[found[0]]
        )

    def placed(self) -> Place:
        source = self._source
        points, system = source.gcps
        ground = (
            {"gcps": points, "crs": system} if points else {"crs": source.crs, "transform": source.transform}
        )
        return Place(ground | {"rpcs": source.rpcs}, {})


def _colours(source: Any, band: int) -> np.ndarray | None:
    """uint8 [values, 3], what the values of a band that is alone look like; None if they are their own brightness."""
    if source.colorinterp[band - 1].name == "palette":
        table = source.colormap(band)
        colours = np.zeros((max(table) + 1, 3), np.uint8)
        colours[list(table)] = [colour[:3] for colour in table.values()]
        return colours
    bits = int(source.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 8))
    white_is_low = source.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
    if source.dtypes[band - 1] != "uint8" or (bits == 8 and not white_is_low):
        return None
    shades = (np.arange(1 << bits) * 255 / ((1 << bits) - 1)).round().astype(np.uint8)
    return np.repeat(shades[:: -1 if white_is_low else 1, None], 3, axis=1)


def _warn_of(path: Path, source: Any) -> None:
    """Say what makes reading slow, or leaves out what somebody may expect."""
    if source.block_shapes[0][1] == source.width > WIDEST_STRIP:
        warnings.warn(
            f"{path}: is stored in strips as wide as it is, and each window reads all of those that it touches; "
            "fix: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE",
            stacklevel=2,
        )
    if len(source.subdatasets) > 1:
        warnings.warn(
            f"{path}: holds {len(source.subdatasets)} pictures, of which the first is read", stacklevel=2
        )
    header = tiff_header(path)
    if header is not None and header.orientation != 1:
        warnings.warn(
            f"{path}: is to be turned by its orientation tag; its labels lie as it is stored", stacklevel=2
        )


class _Slide:
    """What openslide reads: RGB, where there is anything."""

    bands: Sequence[str] = ("red", "green", "blue")

    def __init__(self, path: Path, slide: Any, level: int) -> None:
        if not 0 <= level < slide.level_count:
            sizes = ", ".join(
                f"{number}: {wide} x {high}" for number, (wide, high) in enumerate(slide.level_dimensions)
            )
            raise UserError(f"has no level {level}", allowed=sizes, fix="--level 0", file=path)
        self.path, self._slide, self._level = path, slide, level
        width, height = slide.level_dimensions[level]
        self.size: tuple[int, int] = (height, width)
        self._factor = slide.level_downsamples[level]
        self._last: tuple[tuple[int, ...], np.ndarray] | None = None

    def _pixels(self, *place: int) -> np.ndarray:
        # the mask of a window is asked for before its values
        if self._last is None or self._last[0] != place:
            top, left, height, width = place
            corner = round(left * self._factor), round(top * self._factor)
            region = self._slide.read_region(corner, self._level, (width, height))
            self._last = place, np.asarray(region)
        return self._last[1]

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        return np.ascontiguousarray(self._pixels(top, left, height, width)[..., :3])

    def mask(self, top: int, left: int, height: int, width: int) -> np.ndarray | None:
        return self._pixels(top, left, height, width)[..., 3] > 0

    def preview(self, longest: int) -> np.ndarray:
        height, width = shrunk(self.size, longest)
        return np.asarray(self._slide.get_thumbnail((width, height)).convert("RGB"))

    def placed(self) -> Place:
        micrometres = (
            self._slide.properties.get("openslide.mpp-x"),
            self._slide.properties.get("openslide.mpp-y"),
        )
        if None in micrometres:
            return Place({}, {})
        across, down = (f"{10_000 / (float(each) * self._factor):.6f}" for each in micrometres)
        tags = {"TIFFTAG_XRESOLUTION": across, "TIFFTAG_YRESOLUTION": down}
        return Place({}, tags | {"TIFFTAG_RESOLUTIONUNIT": "3 (pixels/cm)"})


def shrunk(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Height and width with the same shape and sides of at most `longest`."""
    factor = min(1.0, longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def identity(path: Path) -> list[str | int]:
    """What changes when a file does."""
    status = os.stat(path)
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]
