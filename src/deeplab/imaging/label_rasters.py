"""Label maps larger than memory: cloud-optimised GeoTIFF with a colour table, and polygons of them (extra `geo`).

Both are written part by part, under a name of their own, and renamed when they are whole.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.errors import UserError, require
from deeplab.imaging.geopackage import LOCAL, NOWHERE, write_geopackage
from deeplab.imaging.scenes import Place, rasterio_alone, shrunk
from deeplab.system.writing import ELSEWHERE, cannot_write, put_in_place, whole_file

TILE = 512
# what GeoJSON's positions are in (RFC 7946), to a centimetre
LONGITUDES, DIGITS = "EPSG:4326", 7


def write_label_raster(
    path: Path,
    parts: Iterable[tuple[int, int, np.ndarray]],
    *,
    size: tuple[int, int],
    dtype: str,
    place: Place,
    nodata: int,
    palette: np.ndarray,
    classes: Sequence[str],
    drafts: Path,
) -> np.ndarray:
    """Write class indices as a cloud-optimised GeoTIFF: in tiles, and with overviews, of the commonest class each.

    Args:
        path: target.
        parts: first row, first column and labels of `dtype` [h, w], of which every pixel of the raster has one.
        size: height and width.
        dtype: uint8 or uint16.
        place: where it lies.
        nodata: the value of pixels without a class.
        palette: uint8 [classes, 3]; a colour table, of uint8.
        classes: their names, which stand in the tag CLASSES as JSON.
        drafts: a folder on the same disk for what is not whole yet.

    Returns:
        int64, pixels by value.

    Raises:
        UserError: the file cannot be written.
    """
    counts = np.zeros(int(np.iinfo(dtype).max) + 1, np.int64)
    profile = {
        "driver": "GTiff", "count": 1, "dtype": dtype, "height": size[0], "width": size[1], "nodata": nodata,
        "tiled": True, "blockxsize": TILE, "blockysize": TILE, "compress": "deflate", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    # tiles come in order and behind their overviews, which can be made of a whole raster alone
    optimised = {
        "COMPRESS": "DEFLATE",
        "BLOCKSIZE": TILE,
        "OVERVIEW_RESAMPLING": "MODE",
        "BIGTIFF": "IF_SAFER",
    }
    tiled, whole = drafts / "tiled.tif", drafts / "whole.tif"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # what a killed process left is not overwritten but opened first
        for draft in (tiled, whole):
            draft.unlink(missing_ok=True)
        with _rasterio(f"{path}: cannot be written") as rasterio:
            with rasterio.open(tiled, "w", **profile, **place.profile) as target:
                target.update_tags(**place.tags, CLASSES=json.dumps(list(classes), ensure_ascii=False))
                if dtype == "uint8":
                    target.write_colormap(
                        1, {index: tuple(map(int, rgb)) for index, rgb in enumerate(palette)}
                    )
                for top, left, labels in parts:
                    counts += np.bincount(labels.ravel(), minlength=len(counts))
                    window = ((top, top + labels.shape[0]), (left, left + labels.shape[1]))
                    target.write(labels, 1, window=window)
            require("rasterio.shutil", extra="geo").copy(tiled, whole, driver="COG", **optimised)
            # a disk that is full when a file is closed is no error to GDAL
            if not np.array_equal(_counted(rasterio, whole, values=len(counts)), counts):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put_in_place(whole, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        for draft in (tiled, whole):
            with suppress(OSError):
                draft.unlink()
    return counts


def _counted(rasterio: Any, path: Path, *, values: int) -> np.ndarray:
    counts = np.zeros(values, np.int64)
    with rasterio.open(path) as source:
        for top in range(0, source.height, TILE):
            rows = source.read(1, window=((top, min(top + TILE, source.height)), (0, source.width)))
            counts += np.bincount(rows.ravel(), minlength=values)
    return counts


def label_preview(path: Path, longest: int) -> np.ndarray:
    """The labels of a raster with sides of at most so many pixels, [H, W]."""
    with _rasterio(f"{path}: cannot be read") as rasterio, rasterio.open(path) as source:
        return source.read(1, out_shape=shrunk((source.height, source.width), longest))


def refuse_geojson_of(place: Place) -> None:
    """See, before it is labelled, that the polygons of what lies there can be in longitude and latitude.

    Raises:
        UserError: they cannot.
    """
    points, system = place.profile.get("gcps"), place.profile.get("crs")
    if system is not None:
        across, up = (points[0].x, points[0].y) if points else place.profile["transform"][2:6:3]
        _in_longitudes(system, {"type": "Point", "coordinates": (across, up)})


def write_polygons(raster: Path, path: Path, *, classes: Sequence[str], untinted: Sequence[int] = ()) -> int:
    """Write the outlines of a label raster's regions, each region of one class a polygon with holes.

    GeoJSON (.geojson) is in longitude and latitude where the raster lies on the ground, GeoPackage (.gpkg) in its own
    coordinate system, by its ground control points where it has those; columns and rows where it lies nowhere. `class`
    and `name` are the polygons' properties.

    Args:
        raster: see `write_label_raster`.
        path: target.
        classes: names.
        untinted: classes without polygons.

    Returns:
        how many were written.

    Raises:
        UserError: the file cannot be written.
    """
    with _rasterio(f"{path}: cannot be written") as rasterio, rasterio.open(raster) as source:
        features: Any = require("rasterio.features", extra="geo")
        points, system = source.gcps
        crs = system if points else source.crs
        outlines = (
            (int(value), _through(points, outline) if points else outline)
            for outline, value in features.shapes(rasterio.band(source, 1), transform=source.transform)
            if value != source.nodata and value not in untinted
        )
        if path.suffix == ".gpkg":
            code = (crs.to_epsg() or LOCAL) if crs is not None else NOWHERE
            about = "" if crs is None else crs.to_wkt()
            return write_geopackage(path, outlines, classes=classes, system=(code, about))
        count = 0
        with whole_file(path) as file:
            file.write(b'{"type": "FeatureCollection", "features": [')
            for index, outline in outlines:
                if crs is not None:
                    outline = _in_longitudes(crs, outline)
                properties = {"class": index, "name": classes[index]}
                feature = {"type": "Feature", "properties": properties, "geometry": outline}
                file.write((",\n" if count else "\n").encode())
                file.write(json.dumps(feature, ensure_ascii=False).encode())
                count += 1
            file.write(b"\n]}\n")
    return count


def _through(points: Sequence[Any], outline: dict[str, Any]) -> dict[str, Any]:
    """An outline in columns and rows, on the ground as ground control points say."""
    transform: Any = require("rasterio.transform", extra="geo")
    rings = []
    with transform.GCPTransformer(points) as way:
        for ring in outline["coordinates"]:
            columns, rows = zip(*ring, strict=True)
            rings.append(list(zip(*way.xy(rows, columns, offset="ul"), strict=True)))
    return outline | {"coordinates": rings}


def _in_longitudes(system: Any, geometry: dict[str, Any]) -> dict[str, Any]:
    """A geometry as GeoJSON wants it.

    Raises:
        UserError: the coordinate system is a local one.
    """
    warp: Any = require("rasterio.warp", extra="geo")
    failed: Any = require("rasterio._err", extra="geo").CPLE_BaseError
    try:
        found: dict[str, Any] = warp.transform_geom(system, LONGITUDES, geometry, precision=DIGITS)
    except failed as error:
        raise UserError(
            "GeoJSON is in longitude and latitude, into which the scene's coordinate system does not lead here",
            fix="--polygons gpkg, which keeps that",
        ) from error
    return found


@contextmanager
def _rasterio(failing: str) -> Iterator[Any]:
    """The library; what goes wrong in it is said after these words."""
    with rasterio_alone() as rasterio:
        # what GDAL calls an error has no public name where rasterio does not turn it into one of its own
        errors = rasterio.errors.RasterioError, require("rasterio._err", extra="geo").CPLE_BaseError
        try:
            yield rasterio
        except errors as error:
            raise UserError(
                f"{failing} ({error.__cause__ or error})", fix=f"free some space there, or {ELSEWHERE}"
            ) from error
