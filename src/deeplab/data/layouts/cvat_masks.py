"""CVAT's "Segmentation mask 1.1" export: VOC's folders with masks in colours, and a map of the colours.

    ROOT/labelmap.txt, a line a class: name:R,G,B:parts:actions
    ROOT/JPEGImages/, SegmentationClass/, ImageSets/Segmentation/SPLIT.txt (default.txt without subsets)

Where no class has the colour black, black is "background", in front of the others: CVAT leaves it out of the
map if the task's labels have none.
"""

from __future__ import annotations

from pathlib import Path

from deeplab.data.layouts import splits as by_name
from deeplab.data.layouts.masks import Colour, Painted
from deeplab.data.layouts.voc import LISTS, list_path
from deeplab.data.layouts.voc import splits as list_names
from deeplab.data.source import ignore_label_of
from deeplab.data.stored import StoredSplit, by_stem, paired, require_folder
from deeplab.errors import UserError

LOOKS_FOR = "labelmap.txt and SegmentationClass/"
WHOLE = "default"
VOID_NAMES = frozenset({"ignore", "void", "__ignore__", "ignored"})


def recognise(root: Path) -> bool:
    """Whether there is a map of colours beside the masks."""
    return (root / "labelmap.txt").is_file() and (root / "SegmentationClass").is_dir()


def splits(root: Path) -> tuple[str, ...]:
    """The lists; with default.txt alone, "train" and "val" by hash."""
    found = list_names(root)
    return ("train", "val") if found == (WHOLE,) else found


def survey(root: Path, split: str) -> StoredSplit:
    """The photos of a list, or of a hash split of default.txt.

    Raises:
        UserError: a folder, list or the map is missing or of another form.
    """
    classes, colours = read_colour_map(root / "labelmap.txt")
    photos, masks = require_folder(root / "JPEGImages"), require_folder(root / "SegmentationClass")
    files = by_stem(photos), by_stem(masks, (".png",))
    known = list(files[0].files)
    if (root / LISTS / f"{split}.txt").is_file() or list_names(root) != (WHOLE,):
        names = by_name.matched(list_path(root, split), known)
    else:
        names = by_name.choose(root, by_name.matched(list_path(root, WHOLE), known), split)
    read = Painted(colours, root / "labelmap.txt")
    return paired(*files, names, classes=classes, origin="labelmap.txt", read=read)


def read_colour_map(path: Path) -> tuple[tuple[str, ...], dict[Colour, int]]:
    """Class names, and the index of each colour; classes called ignore or void are ignored.

    Raises:
        UserError: unreadable, or a line of another form.
    """
    named: dict[Colour, str] = {}
    for line in by_name.read_names(path):
        if line.startswith("#"):
            continue
        name, colour = _parse(line, path)
        if colour in named:
            raise UserError(
                f"{named[colour]} and {name} share the colour {colour}", fix="change one", file=path
            )
        named[colour] = name
    if (0, 0, 0) not in named:
        named = {(0, 0, 0): "background"} | named
    # background is the first class in every table and palette
    order = sorted(named.items(), key=lambda entry: entry[1] != "background")
    classes = tuple(name for _, name in order if name.lower() not in VOID_NAMES)
    ignored = ignore_label_of(len(classes))
    colours = {colour: classes.index(name) if name in classes else ignored for colour, name in order}
    return classes, colours


def _parse(line: str, path: Path) -> tuple[str, Colour]:
    name, _, rest = line.partition(":")
    try:
        red, green, blue = (int(part) for part in rest.split(":")[0].split(","))
    except ValueError:
        raise UserError(
            f"the line {line!r} is not of the form name:R,G,B:parts:actions", fix="correct it", file=path
        ) from None
    return name.strip(), (red, green, blue)
