"""From the words of a recipe or a command line to an open split. Only samples to train on need torch."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deeplab import __version__
from deeplab.data.decoded import DecodedFiles
from deeplab.data.label_rules import IGNORED_NAMES
from deeplab.data.layouts import LAYOUTS, recognise
from deeplab.data.layouts.painting import BACKGROUND
from deeplab.data.layouts.splits import CLASS_FILES, names_file, read_classes
from deeplab.data.layouts.tar_shards import index_at_hand
from deeplab.data.recipe import DataRecipe
from deeplab.data.selection import selected
from deeplab.data.source import Survey
from deeplab.data.storage import RECOGNISED, Storage
from deeplab.errors import UserError
from deeplab.imaging.bands import Bands
from deeplab.system.cache import cache_folder
from deeplab.system.reading import foreign
from deeplab.system.stores import address_of

if TYPE_CHECKING:
    from deeplab.data.dataset import SegmentationDataset, Transform

MISSING_SHOWN = 3


def survey(root: str | Path, split: str, storage: Storage = RECOGNISED) -> Survey:
    """What is in one split of a folder; no photo or mask is opened before it is asked for.

    Args:
        root: the data set's folder, or the address of WebDataset's shards in a store.
        split: "train", "val", or what the layout calls it; see `split_names`.
        storage: what is known about the folder.

    Returns:
        the split; it may lack files, or the names of its classes, and have any number of them: see
        `deeplab.data.selection.selected`.

    Raises:
        UserError: unknown layout or split, or an option that the layout does not take.
    """
    root = _at_hand(root)
    chosen = _layout_name(root, storage.layout)
    file = names_file(storage.names)
    names = read_classes(file) if file else storage.names
    options = {
        "labels": storage.labels,
        "names": names,
        "values": storage.values,
        "line_width": storage.line_width,
    }
    given = {key: value for key, value in options.items() if value not in (None, ())}
    for key in given.keys() - LAYOUTS[chosen].takes:
        raise UserError(
            f"{key}={given[key]!r}: data in the layout {chosen} ({root}) say that themselves",
            fix=f"leave {key} out" + ("; classes chooses among the classes" if key == "names" else ""),
        )
    with foreign(root, "its annotations are not of the form that their tool writes", fix="export them again"):
        return replace(LAYOUTS[chosen].survey(root, split, **given), drawn_on=storage.drawn_on)


def open_source(root: str | Path, split: str, storage: Storage = RECOGNISED) -> Survey:
    """As `survey`, which see, but the classes must be known.

    Raises:
        UserError: as `survey`; also if nothing names the classes or one of them, or two have one name.
    """
    found = survey(root, split, storage)
    if not found.classes:
        what = (
            f"{Path(root) / found.origin} names no class"
            if found.origin in CLASS_FILES
            else f"{Path(root) / 'classes.txt'} is missing, so nothing says what the values in the masks mean"
        )
        raise UserError(
            what,
            fix=(
                "write one class name a line, value 0 first (often background), or give the names "
                "(data.names=[background, cat])"
            ),
        )
    if "" in found.classes:
        raise UserError(
            f"{found.origin} has a class without a name, number {found.classes.index('')}",
            fix="name it",
            file=root,
        )
    twice = [name for name, count in Counter(found.classes).items() if count > 1]
    if twice:
        raise UserError(
            f"{found.origin} lists the class {twice[0]!r} twice",
            fix="give each class a name of its own",
            file=root,
        )
    return found


def split_names(root: str | Path, *, layout: str = "auto") -> tuple[str, ...]:
    """Names of the splits that the data set in `root` has.

    Raises:
        UserError: unknown layout.
    """
    root = _at_hand(root)
    return LAYOUTS[_layout_name(root, layout)].splits(root)


def open_split(
    data: DataRecipe,
    split: str,
    *,
    transform: Transform | None = None,
    seed: int = 0,
    bands: Bands | None = None,
) -> SegmentationDataset:
    """The photos and masks of one split, with the recipe's classes; with a transform, kept decoded if it says so.

    Photos are read as 8-bit RGB, or as `bands` says.

    Raises:
        UserError: as `open_complete` and `deeplab.data.selection.selected`.
    """
    from deeplab.data.dataset import SegmentationDataset

    whole = open_complete(data.root, split, data.storage, bands)
    source = selected(whole, data.classes, other=data.other)
    kept = None
    if data.keep_decoded and transform is not None:
        # whatever changes the labels of an unchanged file
        about = data.model_dump_json(
            include={"layout", "labels", "names", "values", "classes", "other", "drawn_on", "line_width"}
        )
        kept = DecodedFiles(cache_folder() / "decoded", f"{__version__} {about}{bands or ''}")
    return SegmentationDataset(source, transform=transform, seed=seed, kept=kept)


def open_complete(
    root: str | Path, split: str, storage: Storage = RECOGNISED, bands: Bands | None = None
) -> Survey:
    """As `open_source`, which see; a split that lacks files or is empty is refused. `bands`: how photos are read.

    Raises:
        UserError: as `open_source`; also if a file of the split is missing, an annotation belongs to nothing, or the
            split is empty.
    """
    source = open_source(root, split, storage)
    if source.missing:
        first = "; ".join(source.missing[:MISSING_SHOWN])
        raise UserError(
            f"split {split!r}: {len(source.missing)} files are missing, first: {first}",
            fix="add what is missing, or take the names off the list",
        )
    if source.stray:
        raise UserError(
            f"split {split!r}: {len(source.stray)} annotations name photos or classes that are not "
            f"listed, first: {'; '.join(source.stray[:MISSING_SHOWN])}",
            fix="list what they name, or delete them",
        )
    if source.bad:
        told = (
            f"split {split!r}: {len(source.bad)} annotations paint nothing, first: "
            f"{'; '.join(source.bad[:MISSING_SHOWN])}"
        )
        if storage.on_bad == "error":
            raise UserError(told, fix="correct or delete them, or leave them out with data.on_bad=skip")
        warnings.warn(f"{told}; they are left out, data.on_bad=error refuses them", stacklevel=2)
    if not len(source):
        raise UserError(
            f"split {split!r} of {root} has no samples",
            fix=(
                f"name another split, add photos and masks, or write {Path(root) / 'train.txt'} and "
                f"{Path(root) / 'val.txt'} with one name a line (without lists the hash of a name puts a "
                "fifth into val)"
            ),
        )
    return replace(source, bands=bands)


def resolve(data: DataRecipe) -> DataRecipe:
    """`data` with what the data set itself says filled in: layout, names, classes.

    Raises:
        UserError: as `open_source` and `deeplab.data.selection.selected`.
    """
    if data.layout != "auto" and data.classes:
        return data
    root = _at_hand(data.root)
    layout = _layout_name(root, data.layout)
    source = open_source(data.root, data.train, replace(data.storage, layout=layout))
    # layouts that know their classes take no names
    names = source.classes if "names" in LAYOUTS[layout].takes else ()
    classes = selected(source, data.classes, other=data.other).classes
    if not data.classes and data.val in LAYOUTS[layout].splits(root):
        # their order does not matter; a class of one split alone would be ignored in the other, or never be seen
        measured = open_source(data.root, data.val, replace(data.storage, layout=layout))
        other = sorted(set(classes) ^ set(measured.classes))
        if other:
            raise UserError(
                f"{source.origin} of {data.train} and {measured.origin} of {data.val} have other classes: "
                f"{', '.join(other[:MISSING_SHOWN])}{', ...' if len(other) > MISSING_SHOWN else ''} not in both",
                fix="list the same classes in both, or choose some that both have: data.classes",
                file=data.root,
            )
    void = [name for name in names if name.lower() in IGNORED_NAMES and not data.classes]
    if void:
        others = ",".join(name for name in classes if name not in void)
        warnings.warn(
            f"{source.origin} lists {', '.join(void)} as a class, which is trained and counts in the mean IoU as any "
            f"other; data.classes=[{others}] ignores it",
            stacklevel=2,
        )
    if len(classes) < 2:
        raise one_class(data.root, classes)
    return data.model_copy(update={"layout": layout, "names": names, "classes": classes})


def one_class(root: Path, classes: tuple[str, ...]) -> UserError:
    """What to raise where nothing is to be told apart."""
    fix = (
        "draw or list what it is to be told from"
        if BACKGROUND in classes
        else "two are needed, add 'background'"
    )
    return UserError(f"{root} has one class only, {', '.join(classes)}", fix=fix)


def _at_hand(root: str | Path) -> Path:
    """The folder; of one in a store what says which shards there are."""
    address = address_of(root)
    return Path(root) if address is None else index_at_hand(address)


def _layout_name(root: Path, layout: str) -> str:
    if layout == "auto":
        return recognise(root)
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r} is unknown", allowed=f"auto, {', '.join(LAYOUTS)}")
    return layout
