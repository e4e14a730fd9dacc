"""Supervisely's own export: a project with one or more data sets.

    ROOT/meta.json ("classes")
    ROOT/DATASET/img/NAME.jpg and ROOT/DATASET/ann/NAME.jpg.json

Data sets called train, val or test are the splits; otherwise all are one, split by hash or list. Geometry:
bitmap, polygon, rectangle; points are pixels and their borders belong to them. Source: Supervisely's
documentation of its annotation format.
"""

from __future__ import annotations

import base64
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.data.joining import find_file, plain_name, sample_names, visible
from deeplab.data.layouts import polygons
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.painting import (
    ClassList,
    Painter,
    Picture,
    Region,
    as_written,
    class_name,
    no_area,
    outline_fault,
    read_json,
    unpainted,
)
from deeplab.data.layouts.polygons import Window
from deeplab.data.stored import Item, StoredSplit, joined, pictures
from deeplab.errors import UserError
from deeplab.imaging.pictures import opened_picture
from deeplab.system.reading import inflated

Size = tuple[int, int]

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
    with as_written(meta):
        titles = [class_name(entry["title"]) for entry in read_json(meta)["classes"]]
    if "" in titles:
        raise UserError("a class has no title", fix="name it in the tool, and export again", file=meta)
    classes = ClassList.of(titles)
    own = by_name.split_folder(root, split)
    folders = [own] if own else _datasets(root)
    paths = [path for folder in folders for path in visible(folder / "ann", "*.json")]
    files = [plain_name(f"{path.parent.parent.name}/{path.stem}") for path in paths]
    annotations = dict(zip(sample_names(files), paths, strict=True))
    chosen = list(annotations) if own else by_name.choose(root, list(annotations), split, hashed=splits(root))
    photos = {name: find_file((path.parent.parent / "img",), path.stem) for name, path in annotations.items()}
    items, missing = joined(chosen, photos, annotations)
    annotated = set(photos.values())
    read = Painter(_picture, classes)
    return StoredSplit(
        classes=classes.classes,
        origin=meta.name,
        items=items,
        missing=missing,
        unannotated=tuple(
            photo for folder in folders for photo in pictures(folder / "img") if photo not in annotated
        ),
        bad=tuple(text for item in items for text in unpainted(_picture(item).regions, item.mask)),
        unlisted=frozenset(annotations).difference(chosen),
        read=read,
    )


def _datasets(root: Path) -> list[Path]:
    return [path.parent for path in visible(root, "*/ann") if (path.parent / "img").is_dir()]


def _picture(item: Item) -> Picture:
    content = read_json(item.mask)
    with as_written(item.mask):
        size = int(content["size"]["height"]), int(content["size"]["width"])
        return Picture(size, _regions(content["objects"], size, item.mask))


def _regions(objects: list[dict[str, Any]], size: Size, file: Path) -> list[Region]:
    return [
        Region(
            class_name(entry.get("classTitle")),
            partial(_cover, entry, size=size, file=file),
            f"object {entry.get('id', number)} ({entry.get('classTitle')})",
            _fault(entry, size),
        )
        for number, entry in enumerate(objects, 1)
    ]


def _fault(entry: dict[str, Any], size: Size) -> str:
    if not class_name(entry.get("classTitle")):
        return "it has no class"
    kind = entry["geometryType"]
    if kind == "bitmap":
        return "" if (entry.get("bitmap") or {}).get("data") else "its bitmap is missing"
    return outline_fault((entry.get("points") or {}).get("exterior"), size) if kind == "polygon" else ""


def _cover(entry: dict[str, Any], *, size: Size, file: Path) -> Window:
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
        packed = base64.b64decode(bitmap["data"])
        with opened_picture(inflated(packed, "a bitmap")) as image:
            seen = np.array(image.convert("RGBA"))[..., 3] if image.has_transparency_data else np.array(image)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"a bitmap cannot be read ({error})", fix="export again") from error
    left, top = (int(place) for place in bitmap["origin"])
    return Window(top, left, np.greater(seen if seen.ndim == 2 else seen.max(axis=2), 0))
