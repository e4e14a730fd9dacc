"""Roboflow's "semantic segmentation masks" export.

ROOT/{train,valid,test}/NAME.jpg, NAME_mask.png, _classes.csv ("Pixel Value, Class")
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from deeplab.data.joining import visible
from deeplab.data.layouts.masks import IndexMasks, table_of
from deeplab.data.layouts.splits import split_folder
from deeplab.data.source import IGNORE_LABEL
from deeplab.data.stored import StoredSplit, listing, paired, require_folder
from deeplab.errors import UserError
from deeplab.imaging.photos import PHOTO_SUFFIXES
from deeplab.system.reading import LARGEST_TEXT, beginning, foreign, read_bytes, shown

LOOKS_FOR = "train/_classes.csv whose first line is Pixel Value, Class"
TABLE = "_classes.csv"
HEAD = 256
MASK_END = "_mask"


def recognise(root: Path) -> bool:
    """Whether a split's folder has such a table (the classification export has one of another kind)."""
    for split in splits(root):
        folder = split_folder(root, split)
        if folder is not None and (folder / TABLE).is_file():
            first = beginning(folder / TABLE, HEAD).decode("utf-8-sig", errors="replace").split("\n", 1)[0]
            return first.strip().lower().startswith("pixel value")
    return False


def splits(root: Path) -> tuple[str, ...]:
    """The splits that have a folder."""
    return tuple(name for name in ("train", "val", "test") if split_folder(root, name))


def survey(root: Path, split: str) -> StoredSplit:
    """All photos of the split; "val" is the folder valid.

    Raises:
        UserError: the folder or its table is missing, or the table is not of that form.
    """
    folder = require_folder(split_folder(root, split) or root / split)
    values = _read_table(folder / TABLE)
    files = [file for file in visible(folder) if file.suffix.lower() in PHOTO_SUFFIXES]
    masks = [file for file in files if file.stem.endswith(MASK_END)]
    ignored = frozenset({IGNORE_LABEL}) - values.keys()
    table = table_of({value: index for index, value in enumerate(values)}, ignored=ignored)
    read = IndexMasks(table, f"the values of {folder / TABLE}: {', '.join(map(str, values))}")
    return paired(
        listing(folder, (file for file in files if not file.stem.endswith(MASK_END))),
        listing(folder, masks, ending=MASK_END)._replace(ending=f"{MASK_END}.png"),
        classes=tuple(values.values()),
        origin=TABLE,
        read=read,
    )


def _read_table(path: Path) -> dict[int, str]:
    """Class name by value, in the order of the values."""
    again = "export the data again as semantic segmentation masks"
    with foreign(path, "cannot be read as lines of value and class name", fix=again):
        lines = read_bytes(path, largest=LARGEST_TEXT).decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(lines, newline="")) if row][1:]
        found = {int(value): name.strip() for value, name in rows}
        if len(found) < len(rows):
            raise ValueError("a value is listed twice")
    if not found or min(found) < 0 or max(found) > IGNORE_LABEL:
        raise UserError(
            f"lists values {shown(sorted(found))}", allowed="at least one, each 0..255", file=path
        )
    return dict(sorted(found.items()))
