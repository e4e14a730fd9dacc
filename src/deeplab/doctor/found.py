"""What the doctor examines: the surveys of a data set's splits, the same that training opens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from deeplab.data.layouts import recognise
from deeplab.data.layouts.masks import NO_CLASS, IndexMasks
from deeplab.data.opening import split_names, survey
from deeplab.data.selection import selected
from deeplab.data.source import IGNORE_LABEL, Survey
from deeplab.data.storage import RECOGNISED, Storage
from deeplab.data.stored import StoredSplit
from deeplab.data.upright import DrawnOn
from deeplab.doctor.class_list import ClassList, resolve_classes
from deeplab.doctor.examined import STORED
from deeplab.doctor.readers import FileReader, Pair, Reader, SourceReader

# the names of a split by preference: a list train_aug holds those of train, too
USUAL = {
    "train": ("train_aug", "trainaug", "train", "training", "trainval"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Expected:
    """What the user says of the data.

    Attributes:
        storage: how they are stored.
        num_classes: how many.
        keep: names of the classes that count, in their new order; () is all.
        other: what becomes of all other classes, ignore or background.
        ignore_label: value of pixels that are no class.
        train: list of the training photos, or a split's name; None looks for the usual ones.
        val: likewise.
    """

    storage: Storage = RECOGNISED
    num_classes: int | None = None
    keep: tuple[str, ...] = ()
    other: Literal["ignore", "background"] = "ignore"
    ignore_label: int = IGNORE_LABEL
    train: str | None = None
    val: str | None = None


@dataclass(frozen=True)
class Found:
    """A data set, surveyed.

    Attributes:
        splits: names of the splits in the data set, by what the report calls them.
        asked: whether the user named them.
        storage: with the layout that was recognised, and the class names that have to be given to open it.
        classes: what the masks should hold.
        pairs: in the data set's order.
        reader: how they are read.
        decode: class of each stored value, where the two differ; `STORED` + the value where it has none.
        allowed: stored values that may be, in words, where they are other numbers than the classes'.
        missing: files that an annotation or index asks for, in words.
        double: files whose name another one of their folder has too.
        stray: annotations of photos or classes that the data set does not list, in words.
        bad: annotations that paint nothing, in words.
        unannotated: photos that nothing annotates.
        unlisted: how many names are left out: in no split, or of a test split without masks.
    """

    splits: dict[str, str]
    asked: bool
    storage: Storage
    classes: ClassList
    pairs: tuple[Pair, ...]
    reader: Reader
    decode: tuple[int, ...] | None
    allowed: str
    missing: tuple[str, ...]
    double: tuple[Path, ...]
    stray: tuple[str, ...]
    bad: tuple[str, ...]
    unannotated: tuple[Path, ...]
    unlisted: int


def find(root: Path, expected: Expected) -> Found:
    """Survey every split that is to be examined.

    Raises:
        UserError: what `deeplab.data.opening.survey` or `deeplab.data.selection.selected` refuses, or a wrong
            expectation.
    """
    given = expected.storage
    layout = recognise(root) if given.layout == "auto" else given.layout
    storage = replace(given, layout=layout)
    splits = _splits(split_names(root, layout=layout), expected)
    surveys = _surveyed(root, splits, storage)
    said = next(iter(surveys.values()))
    classes = resolve_classes(
        said.classes, said.origin, given.names, expected.num_classes, expected.ignore_label
    )
    differing = {name for found in surveys.values() for name in set(found.classes) ^ set(said.classes)}
    if differing:
        what = f"The splits list other classes: {', '.join(sorted(differing))} not in all of them"
        classes = replace(
            classes, problems=(*classes.problems, (what, "List the same classes in every split."))
        )
    if classes.names != said.classes:
        storage = replace(storage, names=classes.names)
        surveys = _surveyed(root, splits, storage)
    # classes are joined by their names: another split may number them in another order
    keep = expected.keep or (() if differing else next(iter(surveys.values())).classes)
    surveys = {split: selected(found, keep, other=expected.other) for split, found in surveys.items()}
    if expected.keep:
        classes = replace(classes, names=expected.keep)
    secret = [name for name, found in surveys.items() if name == "test" and _without_masks(found)]
    unlisted = len(frozenset.intersection(*(found.unlisted for found in surveys.values())))
    unlisted += sum(len(surveys.pop(name).unpaired) for name in secret)
    reader, allowed = _reader(surveys, storage.drawn_on)
    pairs = tuple(pair for split, found in surveys.items() for pair in _pairs(split, found))
    # splits may share a folder of photos
    taken = {pair.photo for pair in pairs}
    beside = dict.fromkeys(path for found in surveys.values() for path in found.unannotated)
    return Found(
        splits,
        bool(expected.train or expected.val),
        storage,
        classes,
        pairs,
        reader,
        reader.decode if isinstance(reader, FileReader) else None,
        allowed,
        tuple(text for found in surveys.values() if not found.unpaired for text in found.missing),
        tuple(dict.fromkeys(path for found in surveys.values() for path in found.double)),
        tuple(dict.fromkeys(text for found in surveys.values() for text in found.stray)),
        tuple(dict.fromkeys(text for found in surveys.values() for text in found.bad)),
        tuple(path for path in beside if path not in taken),
        unlisted,
    )


def _splits(there: tuple[str, ...], expected: Expected) -> dict[str, str]:
    if expected.train or expected.val:
        return {split: name for split, name in (("train", expected.train), ("val", expected.val)) if name}
    usual = {split: next((name for name in names if name in there), None) for split, names in USUAL.items()}
    return {split: name for split, name in usual.items() if name} or {name: name for name in there}


def _surveyed(root: Path, splits: dict[str, str], storage: Storage) -> dict[str, Survey]:
    return {split: survey(root, name, storage) for split, name in splits.items()}


def _without_masks(found: Survey) -> bool:
    """Whether no photo has one: benchmarks keep those of the test split to themselves."""
    return not len(found) and bool(found.unpaired) and not any(pair.mask for pair in found.unpaired)


def _reader(surveys: dict[str, Survey], drawn_on: DrawnOn) -> tuple[Reader, str]:
    """Index masks are read file by file, so that broken ones can be looked at, too; also what `Found.allowed` says."""
    reads = [found.read if isinstance(found, StoredSplit) else None for found in surveys.values()]
    read = reads[0] if reads and all(other == reads[0] for other in reads) else None
    if not isinstance(read, IndexMasks):
        return SourceReader(surveys), ""
    if read.table is None:
        return FileReader(drawn_on=drawn_on), ""
    decode = tuple(STORED + value if index == NO_CLASS else index for value, index in enumerate(read.table))
    return FileReader(decode, drawn_on), read.allowed


def _pairs(split: str, found: Survey) -> list[Pair]:
    whole = [
        Pair(found.name(index), split, Path(photo), Path(mask), index)
        for index in range(len(found))
        for photo, mask in [found.files(index)]
    ]
    return [*whole, *(Pair(name, split, photo, mask, index=-1) for name, photo, mask in found.unpaired)]
