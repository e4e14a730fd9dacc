"""The reference's TFRecord shards, read and written without TensorFlow (facts 5.1 and 5.2).

    ROOT/SPLIT-00000-of-00004.tfrecord, ...
    ROOT/classes.txt: class names, one a line (written here; the reference keeps them elsewhere)

Photos are read as the reference does, so rotation marked in EXIF data is not applied; shards written here hold
upright photos.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeplab.data.joining import visible
from deeplab.data.layouts.embedded import (
    bytes_as_stored,
    open_picture,
    png_bytes,
    read_embedded_mask,
    read_embedded_photo,
)
from deeplab.data.layouts.splits import class_names
from deeplab.data.source import Source, Survey, check_sample
from deeplab.data.tfrecord import (
    Example,
    Value,
    decode_example,
    encode_example,
    read_record,
    record_places,
    write_records,
)
from deeplab.errors import UserError
from deeplab.system.writing import write_whole

LOOKS_FOR = "SPLIT-00000-of-00004.tfrecord"
SHARD = re.compile(r"^(?P<split>.+)-(?P<number>\d+)-of-(?P<count>\d+)(\.tfrecord)?$")
MOST_SHARDS = 99_999
PHOTO, LABEL, NAME = "image/encoded", "image/segmentation/class/encoded", "image/filename"


@dataclass(frozen=True, kw_only=True)
class RecordSplit(Survey):
    """A `Survey` of records, each found by its place in a shard."""

    shards: tuple[Path, ...]
    shard_of: np.ndarray
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        """See `Source`."""
        return _text(self._example(index).get(NAME)) or f"record {index}"

    def files(self, index: int) -> tuple[str, str]:
        """See `Source`."""
        shard = int(self.shard_of[index])
        place = f"{self.shards[shard]}:{index - int(np.searchsorted(self.shard_of, shard))}"
        return place, f"{place} (mask)"

    def photo(self, index: int) -> np.ndarray:
        """See `Source`."""
        if self.bands is not None:
            return read_embedded_photo(*self.embedded(index), self.bands)
        return np.array(open_picture(*self.embedded(index)).convert("RGB"))

    def embedded(self, index: int) -> tuple[bytes, str]:
        """See `Survey`."""
        return self._feature(index, PHOTO)

    def drawn(self, index: int) -> np.ndarray:
        """See `Survey`."""
        return read_embedded_mask(*self._feature(index, LABEL))

    def lies(self, index: int) -> None:
        """See `Survey`: the reference turns no photo."""

    def _example(self, index: int) -> Example:
        start, length = self.places[index].tolist()
        shard = self.shards[self.shard_of[index]]
        try:
            return decode_example(read_record(shard, start, length))
        except UserError as error:
            message = str(error)
            raise UserError(message if str(shard) in message else f"{shard}: {message}") from None

    def _feature(self, index: int, key: str) -> tuple[bytes, str]:
        """The bytes of a feature, and what messages call them."""
        example = self._example(index)
        place, data = f"{self.files(index)[0]} ({_text(example.get(NAME))})", example.get(key)
        if not isinstance(data, bytes):
            raise UserError(f"{place} has no {key}", fix="write the shards again with masks")
        return data, f"{place}: {key}"


def recognise(root: Path) -> bool:
    """Whether there are shards."""
    return bool(_shards(root))


def splits(root: Path) -> tuple[str, ...]:
    """The splits that have shards."""
    return tuple(_shards(root))


def survey(root: Path, split: str, *, names: tuple[str, ...] | None = None) -> RecordSplit:
    """Find every record of the split's shards.

    Args:
        root: folder that holds the shards.
        split: what their names begin with.
        names: class names of the masks, by index; None takes classes.txt.

    Raises:
        UserError: no shard of the split, or a damaged one.
    """
    by_split = _shards(root)
    if split not in by_split:
        raise UserError(
            f"{root} has no {split}-*.tfrecord; splits found: {', '.join(by_split) or 'none'}", fix="name one"
        )
    shards, missing = by_split[split]
    places = [record_places(shard) for shard in shards]
    classes, origin = class_names(root, names, layout="tfrecord")
    return RecordSplit(
        classes=classes,
        origin=origin,
        shards=shards,
        shard_of=np.repeat(np.arange(len(shards)), [len(found) for found in places]),
        places=np.concatenate(places),
        missing=missing,
    )


def write_split(
    source: Source,
    output: Path,
    split: str,
    *,
    shards: int = 4,
    on_sample: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Write a split as the reference's builders do: in the order given, ceil(n / shards) records a shard.

    Photo files that are upright JPEG or PNG go in as they are; others as PNG. classes.txt is written too.

    Args:
        source: the split; sizes and values of every sample are checked.
        output: folder, made if need be.
        split: what the shards' names begin with.
        shards: their number.
        on_sample: called after each sample, for a progress bar.

    Returns:
        the shards.

    Raises:
        UserError: a sample that is wrong, or fewer samples than shards.
    """
    if not 1 <= shards <= len(source):
        raise UserError(f"{shards} shards for {len(source)} samples", allowed=f"1..{len(source)}")
    size = -(-len(source) // shards)
    written = []
    for number in range(shards):
        indices = range(number * size, min((number + 1) * size, len(source)))
        path = output / f"{split}-{number:05d}-of-{shards:05d}.tfrecord"
        write_records(path, _records(source, indices, on_sample))
        written.append(path)
    write_whole(output / "classes.txt", "\n".join(source.classes) + "\n")
    return written


def features(name: str, *, photo: bytes, label: bytes, size: tuple[int, int]) -> Example:
    """The features of a record, in the order in which the reference's files have them.

    Args:
        name: of the photo.
        photo: a JPEG or PNG file.
        label: a PNG file.
        size: (height, width) of both.
    """
    return {
        "image/channels": 3,
        "image/segmentation/class/format": b"png",
        NAME: name.encode(),
        "image/format": b"jpeg" if photo.startswith(b"\xff\xd8") else b"png",
        LABEL: label,
        PHOTO: photo,
        "image/height": size[0],
        "image/width": size[1],
    }


def _records(source: Source, indices: range, on_sample: Callable[[], None]) -> Iterator[bytes]:
    for index in indices:
        image, label = source.photo(index), source.label(index)
        check_sample(source, index, image=image, label=label)
        photo = bytes_as_stored(source.files(index)[0]) or png_bytes(image)
        yield encode_example(
            features(
                source.name(index), photo=photo, label=png_bytes(label), size=(label.shape[0], label.shape[1])
            )
        )
        on_sample()


def _text(value: Value | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _shards(root: Path) -> dict[str, tuple[tuple[Path, ...], tuple[str, ...]]]:
    """Shards there and shards missing, by split."""
    found: dict[str, dict[tuple[int, int], Path]] = {}
    for path in visible(root, "*-of-*"):
        match = SHARD.match(path.name)
        if match:
            place = int(match["number"]), int(match["count"])
            found.setdefault(match["split"], {})[place] = path
    result: dict[str, tuple[tuple[Path, ...], tuple[str, ...]]] = {}
    for split, paths in found.items():
        total = max(count for _, count in paths)
        if total > MOST_SHARDS:
            # nobody writes so many; and each that is missing is named
            result[split] = tuple(paths.values()), (f"{total} shards, which {max(paths.values())} claims",)
            continue
        have = {number for number, _ in paths}
        absent = tuple(f"{split}-{n:05d}-of-{total:05d}.tfrecord" for n in range(total) if n not in have)
        result[split] = tuple(paths.values()), absent
    return result
