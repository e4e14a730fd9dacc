"""CVAT's "CVAT for images 1.1" and "CVAT for video 1.1" exports: one XML for all photos.

    ROOT/annotations.xml, ROOT/images/NAME.jpg (also ROOT/images/SUBSET/NAME.jpg; frame_000123.png of a video)

Shapes: polygon, mask, box, ellipse, painted by z_order. Splits: the photos' subsets called train, val or test;
else lists, else by hash. Source: CVAT's documentation of the format.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from deeplab.data.joining import distinct, find_file, plain_name, without_suffix
from deeplab.data.layouts import polygons
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.painting import (
    ClassList,
    Painter,
    Picture,
    Region,
    as_written,
    no_area,
    outline_fault,
    unpainted,
)
from deeplab.data.layouts.polygons import Window
from deeplab.data.layouts.run_lengths import from_runs
from deeplab.data.stored import Item, StoredSplit, joined, left_over, pictures
from deeplab.data.upright import stored
from deeplab.errors import UserError
from deeplab.system.reading import foreign, read_bytes

LOOKS_FOR = "annotations.xml (CVAT for images 1.1, CVAT for video 1.1)"
FILE = "annotations.xml"
FRAME = re.compile(r"\d+$")
SHAPES = ("polygon", "mask", "box", "ellipse")
TAGS = frozenset({"tag"})
"""Marks of a whole photo, which paint nothing."""

Size = tuple[int, int]


@dataclass(frozen=True)
class _Pictures:
    """Finds an item's regions; holds the photos' XML as text, which can be pickled."""

    texts: dict[str, bytes]

    def __call__(self, item: Item) -> Picture:
        image = ElementTree.fromstring(self.texts[item.name])
        size = _size(image)
        size = size if all(size) else stored(item.photo).upright
        return Picture(size, _regions(image, size, item.mask))


def recognise(root: Path) -> bool:
    """Whether the file is there."""
    return (root / FILE).is_file()


def splits(root: Path) -> tuple[str, ...]:
    """Subsets with a split's name, else lists, else "train" and "val"."""
    return _splits(root, _read(root / FILE).findall("image"))


def survey(root: Path, split: str) -> StoredSplit:
    """The photos of the split.

    Raises:
        UserError: no such split, or the XML is broken.
    """
    tree = _read(root / FILE)
    labels = [name.text or "" for name in tree.findall("./meta//labels/label/name")]
    classes = ClassList.of(labels)
    with as_written(root / FILE):
        every = _images(tree, root)
    own = [image for image in every if _split_of(image) == split]
    images = own or every
    files = [plain_name(image.get("name", "")) for image in images]
    # photos of several subsets or tasks may have one name
    wholes = [f"{image.get('subset') or ''}/{file}" for image, file in zip(images, files, strict=True)]
    names = distinct([(without_suffix(file), file, whole) for file, whole in zip(files, wholes, strict=True)])
    entries = dict(zip(names, images, strict=True))
    if len(entries) < len(images):
        raise UserError(
            f"two images are called {Counter(names).most_common(1)[0][0]}", fix="rename one", file=root / FILE
        )
    chosen = names if own else by_name.choose(root, names, split, hashed=_splits(root, every))
    photos = {name: _photo(root, entries[name]) for name in chosen if name in entries}
    items, missing = joined(chosen, photos, root / FILE)
    with as_written(root / FILE):
        bad = [
            text
            for item in items
            for text in unpainted(
                _regions(entries[item.name], _size(entries[item.name]), item.mask), item.mask
            )
        ]
    for image in images:
        # what stands behind an element is written with it, and is none of it
        image.tail = None
    texts = {item.name: ElementTree.tostring(entries[item.name]) for item in items}
    read = Painter(_Pictures(texts), classes)
    return StoredSplit(
        classes=classes.classes,
        origin=FILE,
        items=items,
        missing=missing,
        unannotated=left_over((item.photo for item in items), (image.get("name", "") for image in every)),
        bad=tuple(bad),
        unlisted=frozenset(entries).difference(chosen),
        read=read,
    )


def _read(path: Path) -> ElementTree.Element:
    with foreign(path, "cannot be read as CVAT's XML", fix="export again as CVAT for images 1.1"):
        return ElementTree.fromstring(read_bytes(path))


def _images(tree: ElementTree.Element, root: Path) -> list[ElementTree.Element]:
    """The photos with their shapes; a video's tracks are told apart by frame, which is the number in a photo's name."""
    tracks = tree.findall("track")
    if not tracks:
        return tree.findall("image")
    size = next(
        (place for tag in ("original_size", "size") if (place := tree.find(f"./meta//{tag}")) is not None),
        None,
    )
    sides = {side: size.findtext(side, "") for side in ("width", "height")} if size is not None else {}
    photos = {int(found[0]): file for file in pictures(root / "images") if (found := FRAME.search(file.stem))}
    # of one video; photos that are numbered from 1 would each have the labels of the next frame
    stops = [int(stop.text or 0) for stop in tree.findall("./meta//stop_frame")]
    if len(stops) == 1 and max(photos, default=0) > stops[0]:
        raise UserError(
            f"{photos[max(photos)]} is numbered above the video's last frame, {stops[0]} ({root / FILE})",
            fix="number photos as CVAT does, the first one 0",
        )
    names = {frame: file.relative_to(root / "images").as_posix() for frame, file in photos.items()}
    shapes = [(_whole(shape, "frame"), track, shape) for track in tracks for shape in track]
    visible_frames = {frame for frame, _, shape in shapes if shape.get("outside") != "1"}
    images = {
        frame: ElementTree.Element("image", {"name": names.get(frame, f"frame_{frame:06d}"), **sides})
        for frame in sorted(visible_frames | names.keys())
    }
    for frame, track, shape in shapes:
        if shape.get("outside") != "1":
            shape.set("label", track.get("label", ""))
            images[frame].append(shape)
    return list(images.values())


def _size(image: ElementTree.Element) -> Size:
    return _whole(image, "height"), _whole(image, "width")


def _splits(root: Path, images: Sequence[ElementTree.Element]) -> tuple[str, ...]:
    subsets = {_split_of(image) for image in images}
    return tuple(name for name in ("train", "val", "test") if name in subsets) or by_name.available(root)


def _whole(element: ElementTree.Element, key: str) -> int:
    """An attribute that is a whole number, or not there and 0."""
    return int(element.get(key) or 0)


def _split_of(image: ElementTree.Element) -> str:
    subset = (image.get("subset") or "").lower()
    aliases = {alias: name for name, others in by_name.ALIASES.items() for alias in others}
    return aliases.get(subset, subset)


def _photo(root: Path, image: ElementTree.Element) -> Path:
    subset = image.get("subset") or ""
    return find_file((root / "images" / subset, root / "images", root), image.get("name", ""))


def _regions(image: ElementTree.Element, size: Size, file: Path) -> list[Region]:
    shapes = [shape for shape in image if shape.tag not in TAGS]
    shapes.sort(key=lambda shape: _whole(shape, "z_order"))
    return [
        Region(
            shape.get("label", ""),
            partial(_cover, shape, size=size, file=file),
            f"{shape.tag} {shape.get('label', '')} of {image.get('name')}",
            _fault(shape, size),
        )
        for shape in shapes
    ]


def _fault(shape: ElementTree.Element, size: Size) -> str:
    if not shape.get("label"):
        return "it has no label"
    if shape.tag == "mask" and not shape.get("rle"):
        return "its run lengths are missing"
    return outline_fault(_points(shape), size) if shape.tag == "polygon" else ""


def _points(shape: ElementTree.Element) -> list[list[float]]:
    """The corners; one that is no pair of numbers is NaN."""
    try:
        return [
            [float(value) for value in point.split(",")]
            for point in shape.get("points", "").split(";")
            if point.strip()
        ]
    except ValueError:
        return [[float("nan")] * 2]


def _cover(shape: ElementTree.Element, *, size: Size, file: Path) -> Window:
    if shape.tag == "polygon":
        return polygons.fill([_points(shape)], size)
    if shape.tag == "mask":
        return _mask(shape)
    if shape.tag == "box":
        sides = (float(shape.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        return polygons.fill([polygons.rectangle(*sides, degrees=float(shape.get("rotation", 0)))], size)
    if shape.tag == "ellipse":
        sides = (float(shape.attrib[key]) for key in ("cx", "cy", "rx", "ry"))
        return polygons.fill([polygons.ellipse(*sides, degrees=float(shape.get("rotation", 0)))], size)
    raise no_area(file, shape.tag, SHAPES)


def _mask(shape: ElementTree.Element) -> Window:
    left, top, width, height = (int(shape.attrib[key]) for key in ("left", "top", "width", "height"))
    runs = [int(run) for run in shape.attrib["rle"].split(",")]
    return Window(top, left, from_runs(runs, (height, width), by_column=False))
