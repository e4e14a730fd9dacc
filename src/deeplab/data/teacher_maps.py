"""What a teacher says of each photo, kept in a folder: probabilities by class on a coarse grid, cut as the photo is.

The folder holds `classes.json`, a list of the teacher's class names, and for each photo NAME.jpg a file NAME.npz with
one array `probabilities` [classes, h, w] (floats 0..1, or uint8 of 255ths) whose corners lie on the photo's corners;
any h and w.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deeplab.config import ResizeRule
from deeplab.data.resize import Size
from deeplab.data.source import IGNORE_LABEL, Source
from deeplab.errors import UserError
from deeplab.system.cache import ANOTHER_CACHE
from deeplab.system.files.arrays import read_arrays
from deeplab.system.reading import foreign, parse_json, read_text
from deeplab.system.writing import write_whole

CLASSES_NAME = "classes.json"
BACKGROUND = "background"
# smaller shares teach nothing, and as zeros they take no room
LEAST_SHARE = 1e-3

Array = np.ndarray


def is_map_folder(path: Path) -> bool:
    """Whether maps are kept there, or are to be."""
    return (path / CLASSES_NAME).is_file()


def map_path(folder: Path, photo: str) -> Path:
    """Where the map of the photo is kept; of photos in shards, SHARD:MEMBER, the member gives the name."""
    return folder / f"{Path(photo.rpartition(':')[2]).stem}.npz"


def photos_without_map(folder: Path, source: Source) -> list[int]:
    """Indices of the photos of `source` that have no map in `folder`.

    Raises:
        UserError: two photos would have one map, as both have one name.
    """
    names: dict[Path, str] = {}
    missing = []
    for index in range(len(source)):
        photo = source.files(index)[0]
        path = map_path(folder, photo)
        if path in names:
            raise UserError(
                f"distil: {names[path]} and {photo} have the same name, and maps are kept by name",
                fix="give each photo a name of its own, or leave out distil",
            )
        names[path] = photo
        if not path.is_file():
            missing.append(index)
    return missing


def write_classes(folder: Path, classes: Sequence[str]) -> None:
    """Say what the maps in `folder` will be of."""
    write_whole(folder / CLASSES_NAME, json.dumps(list(classes)) + "\n", otherwise=ANOTHER_CACHE)


def write_map(path: Path, probabilities: Array) -> None:
    """Keep float [classes, h, w] as float16, without shares below a thousandth; packed, so most zeros cost nothing."""
    kept = np.where(probabilities < LEAST_SHARE, 0, probabilities).astype(np.float16)
    packed = io.BytesIO()
    np.savez_compressed(packed, probabilities=kept)
    write_whole(path, packed.getvalue(), otherwise=ANOTHER_CACHE)


@dataclass(frozen=True)
class Grid:
    """Where the student's logits lie in a training crop: every `stride` pixels, by the rule that enlarges them."""

    stride: int
    rule: ResizeRule = "align_corners"

    def positions(self, side: int) -> Array:
        """Their rows or columns in a crop of `side` pixels, float64 [n]."""
        count = -(-side // self.stride)
        if self.rule == "align_corners":
            return np.linspace(0, side - 1, count)
        half = 0.5 if self.rule == "half_pixel" else 0.0
        return np.clip((np.arange(count) + half) * (side / count) - half, 0, side - 1)


class TeacherMaps:
    """The maps of one or several teachers in the student's classes, for the samples of a training.

    A class counts for the student's class of the same name, whatever its case; what the student has no name for is
    `background` where it has that, and else is no class. Where a photo's label is a class that a teacher lacks, that
    teacher is not heard.

    Args:
        folders: of maps, see this module.
        classes: the student's, by index.
        grid: of the student's logits.

    Raises:
        UserError: a folder's classes cannot be read, or fewer than two are the student's.
    """

    def __init__(self, folders: Sequence[Path], classes: Sequence[str], grid: Grid) -> None:
        self.grid = grid
        self.folders = tuple(folders)
        self._matches = [class_matches(_read_classes(folder), classes, str(folder)) for folder in folders]

    def of(self, photo: str) -> TaughtPhoto:
        """What the teachers say of a photo, by its file.

        Raises:
            UserError: a map is missing or broken.
        """
        maps = []
        for folder, matches in zip(self.folders, self._matches, strict=True):
            stored = _read_map(map_path(folder, photo), matches.shape[1])
            planes = np.tensordot(matches, stored, axes=1)
            maps.append((np.moveaxis(planes, 0, 2), matches.max(axis=1) > 0))
        return TaughtPhoto(maps, self.grid)


@dataclass(frozen=True)
class TaughtPhoto:
    """A photo's maps: pairs of float32 [h, w, classes], and bool [classes], which of these the teacher has."""

    maps: Sequence[tuple[Array, Array]]
    grid: Grid

    def cut(self, labels: Array, *, size: Size, offset: Size, flip: bool) -> torch.Tensor:
        """The mean of the teachers where the student's logits lie in a crop.

        Args:
            labels: uint8 [H, W] of the crop.
            size: (height, width) of the whole photo as it was scaled.
            offset: (row, column) of the crop in it.
            flip: whether the crop was mirrored after it was cut.

        Returns:
            float16 [classes, h, w] that add up to 1, or less where a share is of no class; 0 where no teacher is
            heard, as in padding.
        """
        places = [self.grid.positions(side) for side in labels.shape]
        shown = labels[np.ix_(*(np.rint(place).astype(np.intp) for place in places))]
        if flip:
            places[1] = labels.shape[1] - 1 - places[1]
        rows, columns = (start + place for start, place in zip(offset, places, strict=True))
        inside = (rows <= size[0] - 1)[:, None] & (columns <= size[1] - 1)
        total, heard = 0.0, np.zeros(inside.shape, dtype=np.float32)
        for planes, known in self.maps:
            # a label that is no class of the student's forbids nothing
            table = np.ones(IGNORE_LABEL + 1, dtype=bool)
            table[: known.size] = known
            hears = inside & table[shown]
            total = total + _sampled(planes, rows, columns, size) * hears[..., None]
            heard += hears
        mean = total / np.maximum(heard, 1)[..., None]
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(mean, 2, 0)).astype(np.float16))


def class_matches(teacher: Sequence[str], student: Sequence[str], source: str) -> Array:
    """float32 [student's classes, teacher's classes]: 1 where the second counts for the first; see `TeacherMaps`.

    Raises:
        UserError: fewer than two of the student's classes are the teacher's; it names `source`.
    """
    own = {name.casefold(): index for index, name in enumerate(student)}
    matches = np.zeros((len(student), len(teacher)), dtype=np.float32)
    for index, name in enumerate(teacher):
        found = own.get(name.casefold(), own.get(BACKGROUND))
        if found is not None:
            matches[found, index] = 1
    if np.count_nonzero(matches.any(axis=1)) < 2:
        raise UserError(
            f"distil.teacher: {source} has the classes {', '.join(teacher)}, of which fewer than two "
            f"are those to learn, {', '.join(student)}",
            fix="a teacher of the same names, or data.names that are its names",
        )
    return matches


def _read_classes(folder: Path) -> list[str]:
    path = folder / CLASSES_NAME
    with foreign(path, "cannot be read as a list of class names"):
        classes = parse_json(read_text(path))
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(
            "is no list of class names", allowed='a JSON list, such as ["background", "cat"]', file=path
        )
    return classes


def _read_map(path: Path, classes: int) -> Array:
    """float32 [classes, h, w]."""
    again = (
        "if it is missing or broken, delete it and start the training again, which makes what is missing of a "
        "model's maps"
    )
    with foreign(path, "cannot be read as a teacher's map", fix=again):
        (stored,) = read_arrays(path, "probabilities")
    if stored.ndim != 3 or len(stored) != classes or stored.dtype.kind not in "fu" or not stored.size:
        raise UserError(
            f"holds {stored.dtype} of the shape {stored.shape}",
            allowed=(
                f"floats 0..1 or uint8 of the shape ({classes}, h, w), one plane for each class that "
                f"{CLASSES_NAME} names"
            ),
            file=path,
        )
    found = stored.astype(np.float32) / (255 if stored.dtype == np.uint8 else 1)
    # NaN is in no range, and half precision rounds
    if not 0 <= found.min() <= found.max() <= 1.01:
        raise UserError(
            f"holds {found.min()} to {found.max()}", allowed="probabilities, 0..1", fix=again, file=path
        )
    return found


def _sampled(planes: Array, rows: Array, columns: Array, size: Size) -> Array:
    """[h, w, C] at places of the photo scaled to `size`, bilinear: [rows, columns, C]."""
    for axis, (places, side) in enumerate(((rows, size[0]), (columns, size[1]))):
        last = planes.shape[axis] - 1
        position = np.clip(places * (last / max(side - 1, 1)), 0, last)
        low = np.floor(position).astype(np.intp)
        weight = (position - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        first, second = planes.take(low, axis), planes.take(np.minimum(low + 1, last), axis)
        planes = first + (second - first) * weight
    return planes
