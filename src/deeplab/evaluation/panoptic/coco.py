"""COCO's panoptic format: a JSON that lists each picture's segments, and PNGs whose colours are their ids.

A pixel's id is R + 256 G + 256^2 B. Source: COCO's data format; reference fact 6.9 (the COCO runner).
"""

from __future__ import annotations

import codecs
import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ValidationError

from deeplab.data.joining import same_id
from deeplab.data.layouts.coco_panoptic import read_ids
from deeplab.errors import MOST_PROCESSES, UserError
from deeplab.evaluation.panoptic.accumulator import Accumulator
from deeplab.evaluation.panoptic.overlaps import runs
from deeplab.system.reading import foreign, read_bytes

Measure = TypeVar("Measure", bound=Accumulator)
Maps = tuple[np.ndarray, np.ndarray]
PICTURES_AT_ONCE = 8


def _as_id(value: Any) -> int | str:
    """4, 4.0 and "4" are one picture, whichever of the two files writes which."""
    try:
        return same_id(value)
    except TypeError as error:
        raise ValueError(str(error)) from error


class Segment(BaseModel):
    """One segment of a picture: its id there, and its category."""

    id: int
    category_id: int
    iscrowd: bool = False


class Annotation(BaseModel):
    """The segments of one picture, and the PNG that shows where they are."""

    image_id: Annotated[int | str, BeforeValidator(_as_id)]
    file_name: str
    segments_info: list[Segment]


class Category(BaseModel):
    """A category: a thing has instances, stuff has none."""

    id: int
    name: str
    isthing: bool


class _Content(BaseModel):
    annotations: list[Annotation]
    categories: list[Category] = []


@dataclass(frozen=True)
class PanopticFiles:
    """A JSON's annotations by image id and categories by id, and the folder of its PNGs."""

    path: Path
    folder: Path
    annotations: dict[int | str, Annotation]
    categories: dict[int, Category]

    def num_categories(self) -> int:
        """One more than the highest category id."""
        return max(self.categories) + 1

    def is_thing(self, num_categories: int) -> list[bool]:
        """Of each category id, whether it is a thing; False for ids that no category has."""
        return [
            index in self.categories and self.categories[index].isthing for index in range(num_categories)
        ]


def read_files(path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> PanopticFiles:
    """Read and check a JSON in COCO's panoptic format; its PNGs are opened later.

    Args:
        path: the JSON: "annotations" and, in the ground truth, "categories".
        folder: where the PNGs lie. Default: the JSON's path without its .json.

    Raises:
        UserError: the file or folder is not there, the JSON is of another form, or names a picture twice.
    """
    path = Path(path)
    folder = path.with_suffix("") if folder is None else Path(folder)
    try:
        with foreign(path):
            stored = read_bytes(path)
        content = _Content.model_validate_json(stored.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(
            f"{place}: {first['msg']}",
            allowed=(
                'COCO\'s panoptic format ("annotations" with image_id, file_name, segments_info; '
                '"categories" with id, name, isthing)'
            ),
            file=path,
        ) from error
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", fix=f"name the folder of the PNGs that {path} lists")
    _refuse_twice(path, "image_id", (entry.image_id for entry in content.annotations))
    _refuse_twice(path, "category id", (entry.id for entry in content.categories))
    return PanopticFiles(
        path=path,
        folder=folder,
        annotations={entry.image_id: entry for entry in content.annotations},
        categories={entry.id: entry for entry in content.categories},
    )


def evaluate_files(
    groundtruth: PanopticFiles,
    predictions: PanopticFiles,
    *,
    measure: Measure,
    workers: int = 0,
    on_picture: Callable[[], None] = lambda: None,
) -> Measure:
    """Count every picture of the ground truth.

    Crowds of the ground truth belong to the ignored category; the predictions' crowd flags do not matter.
    Pixels of id 0 are void. The result is the same to the last bit for any number of workers.

    Args:
        groundtruth, predictions: see `read_files`; predictions of further pictures do not matter.
        measure: a `PanopticQuality` or `ParsingCovering`; the pictures are added to what it holds.
        workers: processes; 0 counts in this one, -1 takes one for each processor. A script that asks
            for processes must start from `if __name__ == "__main__":`.
        on_picture: called after each picture, for a progress bar.

    Returns:
        `measure`.

    Raises:
        UserError: a picture has no prediction, a PNG is missing or of another form, sizes differ, or a
            category or the number of instances is out of range; the ignored label is negative.
    """
    if measure.ids.ignored_label < 0:
        raise UserError(
            f"ignored_label is {measure.ids.ignored_label}; COCO's format has void pixels",
            allowed="0 or more",
        )
    if not -1 <= workers <= MOST_PROCESSES:
        raise UserError(f"workers is {workers}", allowed="0, a number of processes, or -1 for all processors")
    pairs = _pairs(groundtruth, predictions)
    count = partial(
        _count_picture,
        measure=_emptied(measure),
        truth_folder=groundtruth.folder,
        predicted_folder=predictions.folder,
    )
    # Each picture's totals are added here, in order: sums of floats depend on it.
    for totals in _mapped(count, pairs, workers=os.cpu_count() or 1 if workers == -1 else workers):
        measure.add(totals)
        on_picture()
    return measure


def category_and_instance(
    annotation: Annotation,
    ids: np.ndarray,
    *,
    ignored_label: int,
    crowds: Literal["ignored", "kept"],
) -> Maps:
    """Split a map of ids into categories and instances.

    Args:
        annotation: its segments, numbered from 0 by category in their order; from 1 in the ignored
            category, where instance 0 is void.
        ids: integers [H, W].
        ignored_label: category of void.
        crowds: "ignored" puts crowds into the ignored category.

    Returns:
        Categories and instances, int64 [H, W].

    Raises:
        UserError: two segments have one id, or a pixel has an id other than 0 that no segment has.
    """
    _refuse_twice(annotation.file_name, "segment id", (segment.id for segment in annotation.segments_info))
    instances = defaultdict(int, {ignored_label: 1})
    values, lengths = runs(ids.ravel())
    found, places = np.unique(values, return_inverse=True)
    listed = {0, *(segment.id for segment in annotation.segments_info)}
    unlisted = [value for value in found.tolist() if value not in listed]
    if unlisted:
        row, column = np.argwhere(ids == unlisted[0])[0]
        raise UserError(
            f"{annotation.file_name}: id {unlisted[0]} at row {row}, column {column} is none of its "
            "segments_info",
            fix="list it there, or write 0 for void",
        )
    category, instance = np.full(len(found), ignored_label), np.zeros(len(found), np.int64)
    for segment in annotation.segments_info:
        ignored = segment.iscrowd and crowds == "ignored"
        chosen = ignored_label if ignored else segment.category_id
        here = found == segment.id
        category[here], instance[here] = chosen, instances[chosen]
        instances[chosen] += 1
    places = np.repeat(places, lengths).reshape(ids.shape)
    return category[places], instance[places]


def _pairs(groundtruth: PanopticFiles, predictions: PanopticFiles) -> list[tuple[Annotation, Annotation]]:
    missing = [key for key in groundtruth.annotations if key not in predictions.annotations]
    if missing:
        raise UserError(
            f"{predictions.path} has no annotation for {len(missing)} of "
            f"{len(groundtruth.annotations)} pictures of {groundtruth.path}, such as image_id "
            f"{missing[0]!r}",
            fix="predict every picture",
        )
    return [(truth, predictions.annotations[key]) for key, truth in groundtruth.annotations.items()]


def _count_picture(
    pair: tuple[Annotation, Annotation], *, measure: Accumulator, truth_folder: Path, predicted_folder: Path
) -> np.ndarray:
    paths = truth_folder / pair[0].file_name, predicted_folder / pair[1].file_name
    ids = [read_ids(path) for path in paths]
    if ids[0].shape != ids[1].shape:
        raise UserError(
            f"{paths[1]} is {_size(ids[1])}, {paths[0]} {_size(ids[0])}",
            fix="predict at the size of the truth",
        )
    label = measure.ids.ignored_label
    measure.reset()
    try:
        truth = category_and_instance(pair[0], ids[0], ignored_label=label, crowds="ignored")
        predicted = category_and_instance(pair[1], ids[1], ignored_label=label, crowds="kept")
        measure.compare_and_accumulate(*truth, *predicted)
    except UserError as error:
        raise UserError(f"{paths[0]} and {paths[1]}: {error}") from error
    return measure.totals


def _mapped(
    count: Callable[[tuple[Annotation, Annotation]], np.ndarray],
    pairs: list[tuple[Annotation, Annotation]],
    *,
    workers: int,
) -> Iterator[np.ndarray]:
    if workers == 0:
        yield from map(count, pairs)
        return
    # A forked process would inherit the locks of threads that it does not have.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(count, pairs, chunksize=PICTURES_AT_ONCE)


def _emptied(measure: Measure) -> Measure:
    other = copy(measure)
    other.reset()
    return other


def _refuse_twice(path: str | os.PathLike[str], what: str, keys: Iterable[int | str]) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise UserError(f"{what} {twice[0]!r} is there twice", fix="keep one of them", file=path)


def _size(ids: np.ndarray) -> str:
    return f"{ids.shape[1]}x{ids.shape[0]}"
