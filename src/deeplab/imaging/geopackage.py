"""Polygons as a GeoPackage (OGC 12-128r19): an SQLite file with tables of fixed names, which GIS programs read.

Written by the standard library: what writes them elsewhere brings GDAL a second time.
"""

from __future__ import annotations

import sqlite3
import struct
import uuid
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.system.writing import ENDING, cannot_write, put_in_place

TABLE = "labels"
# "GPKG" and the version, in the file's header
APPLICATION, VERSION = 0x47504B47, 10300
# numbers of coordinate systems: of a plane that lies nowhere, and of one without a number of EPSG's
NOWHERE, LOCAL = -1, 100_000
WGS_84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433],AUTHORITY["EPSG","4326"]]'
)
# those that every file has
SYSTEMS = (
    ("Undefined Cartesian", -1, "NONE", -1, "undefined"),
    ("Undefined geographic", 0, "NONE", 0, "undefined"),
    ("WGS 84", 4326, "EPSG", 4326, WGS_84),
)
TABLES = f"""
    CREATE TABLE gpkg_spatial_ref_sys (
        srs_name TEXT NOT NULL, srs_id INTEGER NOT NULL PRIMARY KEY, organization TEXT NOT NULL,
        organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
    CREATE TABLE gpkg_contents (
        table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
        description TEXT DEFAULT '',
        last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
        min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER REFERENCES gpkg_spatial_ref_sys(srs_id));
    CREATE TABLE gpkg_geometry_columns (
        table_name TEXT NOT NULL UNIQUE REFERENCES gpkg_contents(table_name), column_name TEXT NOT NULL,
        geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL REFERENCES gpkg_spatial_ref_sys(srs_id),
        z TINYINT NOT NULL, m TINYINT NOT NULL, PRIMARY KEY (table_name, column_name));
    CREATE TABLE {TABLE} (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom BLOB, class INTEGER, name TEXT);
"""


def write_geopackage(
    path: Path,
    outlines: Iterable[tuple[int, dict[str, Any]]],
    *,
    classes: Sequence[str],
    system: tuple[int, str],
) -> int:
    """Write polygons as the table `labels`, with the columns `class` and `name`.

    Args:
        path: target.
        outlines: class index, and a polygon as GeoJSON has it.
        classes: names.
        system: number and well-known text of the coordinate system; `NOWHERE` is none.

    Returns:
        how many were written.

    Raises:
        UserError: the file cannot be written.
    """
    beside = path.parent / f".{uuid.uuid4().hex}{ENDING}"
    number, text = system
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(beside)) as base:
            base.executescript(
                f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; {TABLES}"
            )
            by = "EPSG" if number != LOCAL else "NONE"
            base.executemany(
                "INSERT OR IGNORE INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, NULL)",
                [*SYSTEMS, (f"{by}:{number}", number, by, number, text)],
            )
            rows = (
                (_geometry(outline["coordinates"], number), index, classes[index])
                for index, outline in outlines
            )
            count = base.executemany(
                f"INSERT INTO {TABLE} (geom, class, name) VALUES (?, ?, ?)", rows
            ).rowcount
            base.execute(
                "INSERT INTO gpkg_contents (table_name, data_type, identifier, srs_id) VALUES (?, 'features', ?, ?)",
                (TABLE, TABLE, number),
            )
            base.execute(
                "INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'POLYGON', ?, 0, 0)", (TABLE, number)
            )
            base.commit()
        put_in_place(beside, path)
    except sqlite3.OperationalError as error:
        raise cannot_write(path, OSError(str(error))) from error
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        for remains in (beside, beside.with_name(f"{beside.name}-journal")):
            with suppress(OSError):
                remains.unlink()
    return max(0, count)


def _geometry(rings: Sequence[Sequence[Sequence[float]]], system: int) -> bytes:
    """GeoPackage's header without an envelope, and well-known binary, both little-endian."""
    parts = [b"GP\0\1", struct.pack("<i", system), struct.pack("<BII", 1, 3, len(rings))]
    for ring in rings:
        points = np.asarray(ring, dtype="<f8")
        parts += [struct.pack("<I", len(points)), points.tobytes()]
    return b"".join(parts)
