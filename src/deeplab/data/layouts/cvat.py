"""CVAT's "CVAT for images 1.1" export: one XML for all photos.

    ROOT/annotations.xml, ROOT/images/NAME.jpg (also ROOT/images/SUBSET/NAME.jpg)

Shapes: polygon, mask, box, ellipse, painted by z_order. Splits: the photos' subsets called train, val or test;
else lists, else by hash. Source: CVAT's documentation of the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from deeplab.data.layouts import polygons
from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.painting import ClassList, Painter, Picture, Region, broken, no_area
from deeplab.data.layouts.polygons import Window
from deeplab.data.layouts.run_lengths import from_runs
from deeplab.data.stored import Item, StoredSplit
from deeplab.errors import UserError

LOOKS_FOR = "annotations.xml (CVAT for images 1.1)"
FILE = "annotations.xml"
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
        size = int(image.get("height", 0)), int(image.get("width", 0))
        shapes = [shape for shape in image if shape.tag not in TAGS]
        shapes.sort(key=lambda shape: int(shape.get("z_order", 0)))
        return Picture(
            size,
            [
                Region(shape.get("label", ""), partial(_cover, shape, size=size, file=item.mask))
                for shape in shapes
            ],
        )


def recognise(root: Path) -> bool:
    """Whether the file is there."""
    return (root / FILE).is_file()


def splits(root: Path) -> tuple[str, ...]:
    """Subsets with a split's name, else lists, else "train" and "val"."""
    subsets = {_split_of(image) for image in _read(root / FILE).findall("image")}
    return tuple(name for name in ("train", "val", "test") if name in subsets) or by_name.available(root)


def survey(root: Path, split: str) -> StoredSplit:
    """The photos of the split.

    Raises:
        UserError: no such split, or the XML is broken.
    """
    tree = _read(root / FILE)
    labels = [name.text or "" for name in tree.findall("./meta//labels/label/name")]
    classes = ClassList.of(labels)
    images: dict[str, ElementTree.Element] = {}
    for image in tree.findall("image"):
        # written on Windows it has backslashes
        image.set("name", image.get("name", "").replace("\\", "/"))
        name = str(Path(image.get("name", "")).with_suffix(""))
        if images.setdefault(name, image) is not image:
            raise UserError(f"{root / FILE}: two images are called {name}; fix: rename one")
    own = [name for name, image in images.items() if _split_of(image) == split]
    chosen = own or by_name.choose(root, list(images), split)
    items, missing = [], []
    for name in chosen:
        photo = _photo(root, images[name]) if name in images else None
        if photo is None:
            missing.append(f"photo {name} in {root / 'images'}, or its entry in {root / FILE}")
        else:
            items.append(Item(name, photo, root / FILE))
    texts = {item.name: ElementTree.tostring(images[item.name]) for item in items}
    read = Painter(_Pictures(texts), classes)
    return StoredSplit(
        classes=classes.classes,
        origin=FILE,
        items=tuple(items),
        missing=tuple(missing),
        unlisted=frozenset(() if own else images).difference(chosen),
        read=read,
    )


def _read(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(
            f"{path} cannot be read as CVAT's XML ({error}); fix: export again as CVAT for images 1.1"
        ) from error


def _split_of(image: ElementTree.Element) -> str:
    subset = (image.get("subset") or "").lower()
    aliases = {alias: name for name, others in by_name.ALIASES.items() for alias in others}
    return aliases.get(subset, subset)


def _photo(root: Path, image: ElementTree.Element) -> Path | None:
    name, subset = image.get("name", ""), image.get("subset") or ""
    places = (root / "images" / subset / name, root / "images" / name, root / name)
    return next((place for place in places if place.is_file()), None)


def _cover(shape: ElementTree.Element, *, size: Size, file: Path) -> Window:
    try:
        if shape.tag == "polygon":
            points = [tuple(map(float, point.split(","))) for point in shape.attrib["points"].split(";")]
            return polygons.fill([points], size)
        if shape.tag == "mask":
            return _mask(shape)
        if shape.tag == "box":
            sides = (float(shape.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
            return polygons.fill([polygons.rectangle(*sides, degrees=float(shape.get("rotation", 0)))], size)
        if shape.tag == "ellipse":
            sides = (float(shape.attrib[key]) for key in ("cx", "cy", "rx", "ry"))
            return polygons.fill([polygons.ellipse(*sides, degrees=float(shape.get("rotation", 0)))], size)
    except (KeyError, ValueError) as error:
        raise broken(file, error) from error
    raise no_area(file, shape.tag, SHAPES)


def _mask(shape: ElementTree.Element) -> Window:
    left, top, width, height = (int(shape.attrib[key]) for key in ("left", "top", "width", "height"))
    runs = [int(run) for run in shape.attrib["rle"].split(",")]
    return Window(top, left, from_runs(runs, (height, width), by_column=False))
