"""Supervisely's own export: a project with one or more data sets.

    ROOT/meta.json ("classes")
    ROOT/DATASET/img/NAME.jpg and ROOT/DATASET/ann/NAME.jpg.json

Data sets called train, val or test are the splits; otherwise all are one, split by hash or list. Geometry:
bitmap, polygon, rectangle; points are pixels and their borders belong to them. Source: Supervisely's
documentation of its annotation format.
"""

from __future__ import annotations

import base64
import io
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab.data.layouts import polygons
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.painting import ClassList, Painter, Picture, Region, broken, no_area, read_json
from deeplab.data.layouts.polygons import Window
from deeplab.data.stored import Item, StoredSplit
from deeplab.errors import UserError

LOOKS_FOR = "meta.json and a folder with img/ and ann/"


def recognise(root: Path) -> bool:
    """Whether there is a project's meta.json, and a data set."""
    return (root / "meta.json").is_file() and bool(_datasets(root))


def splits(root: Path) -> tuple[str, ...]:
    """Data sets with a split's name, else lists, else "train" and "val"."""
    usual = tuple(name for name in ("train", "val", "test") if by_name.split_folder(root, name))
    return usual or by_name.available(root)


def survey(root: Path, split: str) -> StoredSplit:
    """The photos of a data set, or of a list or hash split of all.

    Raises:
        UserError: no such split, or meta.json or a photo's annotation is broken.
    """
    meta = root / "meta.json"
    try:
        classes = ClassList.of(entry["title"] for entry in read_json(meta)["classes"])
    except (KeyError, TypeError) as error:
        raise broken(meta, error) from error
    own = by_name.split_folder(root, split)
    folders = [own] if own else _datasets(root)
    annotations = {f"{path.parent.parent.name}/{path.stem}": path for path in _annotations(folders)}
    chosen = list(annotations) if own else by_name.choose(root, list(annotations), split)
    items, missing = [], []
    for name in chosen:
        path = annotations.get(name)
        photo = path.parent.parent / "img" / path.stem if path else None
        if path is None or photo is None:
            missing.append(f"annotation {name}.json in {root}")
        elif photo.is_file():
            items.append(Item(str(Path(name).with_suffix("")), photo, path))
        else:
            missing.append(f"photo {photo}")
    read = Painter(_picture, classes)
    return StoredSplit(
        classes=classes.classes,
        origin=meta.name,
        items=tuple(items),
        missing=tuple(missing),
        unlisted=frozenset(annotations).difference(chosen),
        read=read,
    )


def _datasets(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob("*/ann") if (path.parent / "img").is_dir())


def _annotations(folders: list[Path]) -> list[Path]:
    return [path for folder in folders for path in sorted((folder / "ann").glob("*.json"))]


def _picture(item: Item) -> Picture:
    content = read_json(item.mask)
    try:
        size = int(content["size"]["height"]), int(content["size"]["width"])
        return Picture(
            size,
            [
                Region(entry["classTitle"], partial(_cover, entry, size=size, file=item.mask))
                for entry in content["objects"]
            ],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise broken(item.mask, error) from error


def _cover(entry: dict[str, Any], *, size: tuple[int, int], file: Path) -> Window:
    kind = entry["geometryType"]
    if kind == "bitmap":
        return _bitmap(entry["bitmap"])
    if kind == "polygon":
        points = entry["points"]
        return polygons.fill_between_pixels(points["exterior"], points.get("interior", []), size)
    if kind == "rectangle":
        (x0, y0), (x1, y1) = entry["points"]["exterior"]
        return polygons.fill_between_pixels([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], [], size)
    raise no_area(file, kind, ("bitmap", "polygon", "rectangle"))


def _bitmap(bitmap: dict[str, Any]) -> Window:
    try:
        data = zlib.decompress(base64.b64decode(bitmap["data"]))
        with Image.open(io.BytesIO(data)) as image:
            seen = np.array(image.convert("RGBA"))[..., 3] if image.has_transparency_data else np.array(image)
    except (zlib.error, OSError) as error:
        raise UserError(f"a bitmap cannot be read ({error}); fix: export again") from error
    left, top = bitmap["origin"]
    return Window(top, left, np.greater(seen if seen.ndim == 2 else seen.max(axis=2), 0))
