"""Mapillary Vistas, 1.2 (66 labels) and 2.0 (124): index PNGs, and a JSON of the labels.

    ROOT/{training,validation,testing}/images/NAME.jpg
    ROOT/{training,validation}/VERSION/labels/NAME.png with ROOT/config_VERSION.json, VERSION being v1.2 or v2.0; or
    ROOT/{training,validation}/labels/NAME.png with ROOT/config.json, as 1.2 came first

Labels that the configuration does not evaluate are ignored; the others are the classes, by their readable names.
Source: the data set's own README.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from deeplab.data.joining import visible
from deeplab.data.layouts.masks import IndexMasks, table_of
from deeplab.data.layouts.painting import as_written, class_name, mentions, read_json
from deeplab.data.layouts.splits import ALIASES
from deeplab.data.source import IGNORE_LABEL
from deeplab.data.stored import StoredSplit, by_stem, paired, require_folder
from deeplab.errors import UserError

LOOKS_FOR = "config.json or config_v2.0.json with readable labels, and training/images/ (Mapillary Vistas)"
FOLDERS = {"train": "training", "val": "validation", "test": "testing"}


def recognise(root: Path) -> bool:
    """Whether there is such a configuration beside a split's photos."""
    return bool(splits(root)) and bool(_configurations(root))


def splits(root: Path) -> tuple[str, ...]:
    """The folders of photos."""
    return tuple(split for split, folder in FOLDERS.items() if (root / folder / "images").is_dir())


def survey(root: Path, split: str, *, labels: str | None = None) -> StoredSplit:
    """All photos of the split: "train" or "training", "val" or "validation", "test" or "testing".

    Args:
        root: the folder of the configuration.
        split: of the photos.
        labels: "v1.2" or "v2.0"; None takes the highest that is there.

    Raises:
        UserError: a folder or the configuration is missing, or has other entries.
    """
    own = next((short for short, names in ALIASES.items() if split in names), split)
    folder = require_folder(root / FOLDERS.get(own, own))
    configurations = _configurations(root)
    version = labels or max(configurations, default="")
    if version not in configurations:
        raise UserError(
            f"{root} has no config_{version}.json",
            allowed=", ".join(configurations) or "none",
            fix="unpack it too",
        )
    classes, table = _read(configurations[version])
    photos = by_stem(require_folder(folder / "images"))
    masks = by_stem(folder / version / "labels", (".png",))
    if own != "test":
        require_folder(masks.folder)
    read = IndexMasks(table, f"0..{max(i for i, value in enumerate(table) if value >= 0)}")
    return paired(photos, masks, classes=classes, origin=configurations[version].name, read=read)


def _configurations(root: Path) -> dict[str, Path]:
    """Files by version: that of a name without one is "", as are its folders."""
    found = [path for path in visible(root, "config*.json") if mentions(path, b'"labels"', b'"readable"')]
    return {path.stem.removeprefix("config").lstrip("_"): path for path in found}


def _read(path: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names of the classes, and the class of each label."""
    with as_written(path):
        entries = read_json(path)["labels"]
        names = [class_name(entry["readable"]) or entry["name"] for entry in entries]
        evaluated = [number for number, entry in enumerate(entries) if entry.get("evaluate", True)]
        twice = {name for name, count in Counter(names[number] for number in evaluated).items() if count > 1}
        # two labels may read alike, and have names of their own
        names = [entry["name"] if name in twice else name for name, entry in zip(names, entries, strict=True)]
    if len(entries) > IGNORE_LABEL + 1:
        raise UserError(f"{len(entries)} labels", allowed="as many as 8 bits have values for", file=path)
    ignored = frozenset(range(len(entries))).difference(evaluated)
    table = table_of({number: index for index, number in enumerate(evaluated)}, ignored=ignored)
    return tuple(names[number] for number in evaluated), table
