"""Data sets that are no photo and mask files by name (COCO, labelme, TFRecords, ...), through their decoders.

What `deeplab.data.opening` opens can be checked; its labels come decoded, so faults of the stored values are
the decoder's own messages.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from deeplab.data.layouts import LAYOUTS, recognise
from deeplab.data.opening import open_source, split_names
from deeplab.doctor import places
from deeplab.doctor.pairs import Matched, Pair
from deeplab.doctor.readers import SourceReader
from deeplab.errors import UserError

_MARKS = (
    "labelmap.txt", "*.json", "*/*.json", "*/*/*.json", "*.xml", "*/*.xml", "_classes.csv", "*/_classes.csv",
    "*.tfrecord*", "*-of-*", "stuffthingmaps", "*/train2017", "*/val2017",
)  # fmt: skip


class OtherFormat(NamedTuple):
    """A data set of another format, opened.

    Attributes:
        name: as `--layout` takes it.
        classes: names by index.
        matched: its pairs, as the format names them.
        reader: its splits.
    """

    name: str
    classes: tuple[str, ...]
    matched: Matched
    reader: SourceReader


def may_be_another(root: Path) -> bool:
    """Whether some file or folder is there that plain pictures do not have."""
    return any(next(root.glob(mark), None) is not None for mark in _MARKS)


def open_other(root: Path, *, layout: str = "auto", names: tuple[str, ...] = ()) -> OtherFormat | None:
    """Open every split; None if it is plain pictures after all, or nothing that is known.

    Args:
        root: the data set's folder.
        layout: auto, or a format's name.
        names: class names, for formats that do not say.

    Raises:
        UserError: it is such a format but cannot be opened, or no such format exists.
    """
    if layout == "auto":
        try:
            layout = recognise(root)
        except UserError:
            return None
    elif layout not in LAYOUTS:
        allowed = ", ".join(dict.fromkeys((*places.LAYOUTS, *LAYOUTS)))
        raise UserError(f"layout {layout!r} is not known; allowed: auto, {allowed}")
    # those are read file by file, so that broken ones can be checked too
    if layout in places.LAYOUTS:
        return None
    takes_names = "names" in LAYOUTS[layout].takes
    sources = {
        split: open_source(root, split, layout=layout, names=names if takes_names else ())
        for split in split_names(root, layout=layout)
    }
    pairs = [
        Pair(source.name(index), split, *map(Path, source.files(index)), index=index)
        for split, source in sources.items()
        for index in range(len(source))
    ]
    missing = [text for source in sources.values() for text in source.missing]
    classes = next((source.classes for source in sources.values()), ())
    return OtherFormat(layout, classes, Matched(tuple(pairs), missing=tuple(missing)), SourceReader(sources))
