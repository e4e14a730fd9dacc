"""Label maps larger than memory: GeoTIFF, tiled, compressed, with a colour table, and polygons of them (extra `geo`).

Both are written part by part, under a name of their own, and renamed when they are whole.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.errors import UserError, require
from deeplab.imaging.geopackage import LOCAL, NOWHERE, write_geopackage
from deeplab.imaging.scenes import Place, rasterio_alone, shrunk
from deeplab.system.writing import ENDING, cannot_write, put_in_place, whole_file

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
) -> np.ndarray:
    """Write class indices as a GeoTIFF.

    Args:
        path: target.
        parts: first row, first column and labels of `dtype` [h, w], of which every pixel of the raster has one.
        size: height and width.
        dtype: uint8 or uint16.
        place: where it lies.
        nodata: the value of pixels without a class.
        palette: uint8 [classes, 3]; a colour table, of uint8.
        classes: their names, which stand in the tag CLASSES as JSON.

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
    beside = path.parent / f".{uuid.uuid4().hex}{ENDING}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio_alone() as rasterio:
            try:
                with rasterio.open(beside, "w", **profile, **place.profile) as target:
                    target.update_tags(**place.tags, CLASSES=json.dumps(list(classes), ensure_ascii=False))
                    if dtype == "uint8":
                        target.write_colormap(
                            1, {index: tuple(map(int, rgb)) for index, rgb in enumerate(palette)}
                        )
                    for top, left, labels in parts:
                        counts += np.bincount(labels.ravel(), minlength=len(counts))
                        window = ((top, top + labels.shape[0]), (left, left + labels.shape[1]))
                        target.write(labels, 1, window=window)
            except rasterio.errors.RasterioError as error:
                raise UserError(f"cannot be written ({error.__cause__ or error})", file=path) from error
        put_in_place(beside, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            beside.unlink()
    return counts


def label_preview(path: Path, longest: int) -> np.ndarray:
    """The labels of a raster with sides of at most so many pixels, [H, W]."""
    with rasterio_alone() as rasterio, rasterio.open(path) as source:
        return source.read(1, out_shape=shrunk((source.height, source.width), longest))


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
    with rasterio_alone() as rasterio, rasterio.open(raster) as source:
        features: Any = require("rasterio.features", extra="geo")
        warp: Any = require("rasterio.warp", extra="geo")
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
                    outline = warp.transform_geom(crs, LONGITUDES, outline, precision=DIGITS)
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
