"""WebDataset: photos and masks in tar files, here or remote.

    ROOT/SPLIT-000000.tar, ..., or ROOT/SPLIT.json: {"shardlist": [{"url": "https://...", "nsamples": 1000}]}
    ROOT/classes.txt: class names, one a line

ROOT may be in a store, where the index is needed.
Within a tar, files of one sample share their name up to the first dot: NAME.jpg and NAME.seg.png (or .mask.png,
.label.png, .png). A remote shard is fetched when one of its samples is asked for, and kept in the cache folder;
so training starts before all is there, and its order is the same with any number of workers, also after a
resume. http(s) needs the extra `download`; s3 and other stores `deeplab.system.stores` opens. Source: WebDataset's
documentation of its format and of its index.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from deeplab.data.joining import visible
from deeplab.data.layouts.embedded import bytes_as_stored, png_bytes, read_embedded_mask, read_embedded_photo
from deeplab.data.layouts.painting import as_written, read_json
from deeplab.data.layouts.splits import CLASS_FILES, class_names
from deeplab.data.source import Source, Survey, check_sample
from deeplab.data.upright import Stored, stored
from deeplab.errors import UserError, require
from deeplab.imaging.photos import PHOTO_SUFFIXES
from deeplab.system.cache import ANOTHER_CACHE, cache_folder
from deeplab.system.download import fetch, is_address
from deeplab.system.reading import beginning, foreign, plain_file, shown
from deeplab.system.stores import Folder, address_of, copy_to
from deeplab.system.writing import whole_file, write_whole

LOOKS_FOR = "SPLIT-000000.tar, or SPLIT.json with a shardlist (WebDataset)"
MASKS = ("seg.png", "mask.png", "label.png", "png")
PHOTOS = ("jpg", "jpeg", "webp", "image.png", "img.png", "png")
INDEX_START = 4096
MOST_SAMPLES = 1 << 24


class Member(NamedTuple):
    """A file within a tar: its name, where its bytes begin, and how many there are."""

    name: str
    start: int
    size: int


class Pair(NamedTuple):
    """A sample within a tar."""

    key: str
    photo: Member
    mask: Member


class Shard(NamedTuple):
    """A tar's path or address, and its number of samples."""

    url: str
    samples: int


@dataclass(frozen=True, kw_only=True)
class ShardedSplit(Survey):
    """A `Survey` of tar files; `ends[i]` is the number of samples up to shard i."""

    shards: tuple[Shard, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def name(self, index: int) -> str:
        """See `Source`."""
        return self._pair(index)[1].key

    def files(self, index: int) -> tuple[str, str]:
        """See `Source`."""
        url, number = self._place(index)
        return f"{url}:{number}", f"{url}:{number} (mask)"

    def at_hand(self, index: int) -> bool:
        """See `Source`."""
        return "://" not in self._place(index)[0]

    def photo(self, index: int) -> np.ndarray:
        """See `Source`."""
        return read_embedded_photo(*self.embedded(index), self.bands)

    def embedded(self, index: int) -> tuple[bytes, str]:
        """See `Survey`."""
        url, pair = self._pair(index)
        return _read(url, pair.photo), f"{url}:{pair.photo.name}"

    def drawn(self, index: int) -> np.ndarray:
        """See `Survey`."""
        url, pair = self._pair(index)
        return read_embedded_mask(_read(url, pair.mask), f"{url}:{pair.mask.name}")

    def lies(self, index: int) -> Stored | None:
        """See `Survey`."""
        return stored(*self.embedded(index))

    def _pair(self, index: int) -> tuple[str, Pair]:
        url, number = self._place(index)
        samples = self.shards[self._shard(index)].samples
        pairs, unpaired = pairs_in(local_file(url))
        if len(pairs) != samples:
            raise UserError(
                f"has {len(pairs)} samples with photo and mask where the index says {samples}"
                f"{', first without: ' + unpaired[0] if unpaired else ''}",
                fix="make the index again",
                file=url,
            )
        return url, pairs[number]

    def _shard(self, index: int) -> int:
        return bisect_right(self.ends, index)

    def _place(self, index: int) -> tuple[str, int]:
        """The sample's shard, and its number there."""
        shard = self.shards[self._shard(index)]
        return shard.url, index - self.ends[self._shard(index)] + shard.samples


def recognise(root: Path) -> bool:
    """Whether there are such shards or such an index."""
    return bool(splits(root))


def splits(root: Path) -> tuple[str, ...]:
    """The splits that have shards or an index."""
    local = {path.stem.rpartition("-")[0] for path in visible(root, "*-[0-9]*.tar")}
    indexed = {path.stem for path in visible(root, "*.json") if _is_index(path)}
    return tuple(sorted(local | indexed))


def survey(root: Path, split: str, *, names: tuple[str, ...] | None = None) -> ShardedSplit:
    """Find the split's shards; local ones are looked through, remote ones not yet fetched.

    Args:
        root: folder that holds the shards or the index.
        split: what the shards' names begin with, or the index's name.
        names: class names of the masks, by index; None takes classes.txt.

    Raises:
        UserError: no shard of the split, a broken one, or a wrong index.
    """
    index = root / f"{split}.json"
    if index.is_file():
        indexed = _indexed(root, index)
        shards = [shard for shard in indexed if "://" in shard.url or Path(shard.url).is_file()]
        missing = tuple(f"shard {shard.url}, which {index} names" for shard in indexed if shard not in shards)
    else:
        shards, missing = _local(visible(root, f"{split}-[0-9]*.tar"))
    if not shards and not missing:
        found = ", ".join(splits(root)) or "none"
        raise UserError(
            f"{root} has no {split}-*.tar and no {index.name}; splits found: {found}", fix="name one"
        )
    ends = tuple(np.cumsum([shard.samples for shard in shards]).tolist())
    classes, origin = class_names(root, names, layout="webdataset")
    return ShardedSplit(classes=classes, origin=origin, shards=tuple(shards), ends=ends, missing=missing)


def local_file(url: str) -> Path:
    """The shard on this machine, fetched into the cache folder if it is elsewhere.

    Raises:
        UserError: it is not there, or of a scheme that is not allowed.
    """
    if is_address(url):
        return fetch(url)
    address = address_of(url)
    return Path(url) if address is None else _fetched(address)


@lru_cache(maxsize=64)
def index_at_hand(address: str) -> Path:
    """A folder here with the indexes and the classes of a store's folder; the shards stay where they are.

    Raises:
        UserError: no index lies there, it is no such index, or the store does not answer.
    """
    folder = Folder(address)
    names = sorted(name for name in folder.names() if name.endswith(".json") or name in CLASS_FILES)
    place = cache_folder() / hashlib.sha256(folder.place("").encode()).hexdigest()[:16]
    found = 0
    for name, content in zip(names, folder.read(names), strict=True):
        if name.endswith(".json"):
            if b'"shardlist"' not in content[:INDEX_START]:
                continue
            found += 1
            with as_written(folder.place(name)):
                index = json.loads(content)
                for entry in index["shardlist"]:
                    if "://" not in entry["url"]:
                        entry["url"] = folder.place(entry["url"])
                content = json.dumps(index).encode()
        write_whole(place / name, content, otherwise=ANOTHER_CACHE)
    if not found:
        raise UserError(
            "has no index of shards, SPLIT.json with a shardlist",
            fix="deeplab data webdataset writes shards with one; bring the .json there, too",
            file=address,
        )
    return place


def samples_in(shard: BinaryIO, path: str | os.PathLike[str]) -> dict[str, dict[str, Member]]:
    """Files of a tar by the name of their sample, and by what follows that, in small letters.

    Args:
        shard: opened.
        path: what messages call it.

    Raises:
        UserError: not an uncompressed tar, or one that is broken or cut short.
    """
    samples: dict[str, dict[str, Member]] = {}
    files: dict[str, Member] = {}
    with (
        foreign(path, "cannot be read as a tar", fix="write or fetch it again, not compressed"),
        tarfile.open(fileobj=shard, mode="r:") as tar,
    ):
        for entry in tar:
            folder, slash, file = entry.name.rpartition("/")
            held: Member | None
            if entry.isfile():
                held = files[normpath(entry.name)] = Member(entry.name, entry.offset_data, entry.size)
            else:
                # what tar writes of a file that has two names
                beside = f"{folder}{slash}" if entry.issym() else ""
                held = files.get(normpath(f"{beside}{entry.linkname}"))
                if held is None and entry.linkname and PurePosixPath(file).suffix.lower() in PHOTO_SUFFIXES:
                    raise UserError(
                        f"holds {entry.name} as a link to {entry.linkname}, which does not lie before it",
                        fix="write it again: tar --dereference --hard-dereference",
                    )
            if held is None or file.startswith("."):
                continue
            key, _, ending = file.partition(".")
            member = held._replace(name=entry.name)
            other = samples.setdefault(folder + slash + key, {}).setdefault(ending.lower(), member)
            if other != member:
                same = other.name == entry.name
                raise UserError(
                    f"holds {entry.name} twice"
                    if same
                    else f"holds {other.name} and {entry.name}, one place of a sample",
                    fix="write it again with names of their own",
                )
        # an end between two files looks like that of a tar, but for the mark
        shard.seek(tar.offset)
        if not shard.read(1):
            raise UserError("was cut short: its end mark is missing", fix="write or fetch it again")
    return samples


@lru_cache(maxsize=4096)
def pairs_in(path: Path) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Samples of a tar in its order, and the names of those without photo or mask.

    Raises:
        UserError: not an uncompressed tar, or a broken one.
    """
    with plain_file(path) as shard:
        samples = samples_in(shard, path)
    pairs, unpaired = [], []
    for key, members in samples.items():
        mask = next((ending for ending in MASKS if ending in members), None)
        photo = next((ending for ending in PHOTOS if ending in members and ending != mask), None)
        if mask is None or photo is None:
            unpaired.append(key)
        else:
            pairs.append(Pair(key, members[photo], members[mask]))
    return tuple(pairs), tuple(unpaired)


def write_shards(
    source: Source,
    output: Path,
    split: str,
    *,
    samples: int = 1000,
    on_sample: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Write a split as SPLIT-000000.tar, ..., SPLIT.json and classes.txt, to be read from here or a server.

    Args:
        source: the split; sizes and values of every sample are checked.
        output: folder, made if need be.
        split: what the shards' names begin with.
        samples: in a shard.
        on_sample: called after each sample, for a progress bar.

    Raises:
        UserError: a sample that is wrong, or WebDataset is not installed.
    """
    writer = require("webdataset.writer", extra="webdataset").TarWriter
    written: list[Path] = []
    listed: list[dict[str, str | int]] = []
    keys: dict[str, int] = {}
    for start in range(0, len(source), samples):
        path = output / f"{split}-{len(written):06d}.tar"
        indices = range(start, min(start + samples, len(source)))
        with whole_file(path) as file, writer(file, encoder=False, mtime=0) as tar:
            for index in indices:
                record = _record(source, index)
                if keys.setdefault(record["__key__"], index) != index:
                    other = source.name(keys[record["__key__"]])
                    raise UserError(
                        f"{source.name(index)} and {other} are both {record['__key__']} in a shard",
                        fix="rename one",
                    )
                tar.write(record)
                on_sample()
        written.append(path)
        listed.append({"url": path.name, "nsamples": len(indices)})
    write_whole(output / "classes.txt", "\n".join(source.classes) + "\n")
    write_whole(
        output / f"{split}.json", json.dumps({"wids_version": 1, "shardlist": listed}, indent=1) + "\n"
    )
    return written


def _record(source: Source, index: int) -> dict[str, Any]:
    image, label = source.photo(index), source.label(index)
    check_sample(source, index, image=image, label=label)
    photo = bytes_as_stored(source.files(index)[0]) or png_bytes(image)
    ending = "jpg" if photo.startswith(b"\xff\xd8") else "png"
    # a dot would end the sample's name
    key = source.name(index).replace(".", "_")
    return {"__key__": key, ending: photo, "seg.png": png_bytes(label)}


def _is_index(path: Path) -> bool:
    return b'"shardlist"' in beginning(path, INDEX_START)


def _indexed(root: Path, index: Path) -> list[Shard]:
    with as_written(index):
        listed = [(entry["url"], int(entry["nsamples"])) for entry in read_json(index)["shardlist"]]
        for url, samples in listed:
            if not 0 <= samples <= MOST_SAMPLES:
                raise UserError(
                    f"{url} is said to hold {shown(samples)} samples",
                    allowed=f"0..{MOST_SAMPLES} in a shard",
                    fix="make the index again",
                )
        return [Shard(url if "://" in url else str(root / url), samples) for url, samples in listed]


def _local(paths: list[Path]) -> tuple[list[Shard], tuple[str, ...]]:
    shards, missing = [], []
    for path in paths:
        pairs, unpaired = pairs_in(path)
        shards.append(Shard(str(path), len(pairs)))
        missing += [f"photo or mask of {path}:{key}" for key in unpaired]
    return shards, tuple(missing)


@lru_cache(maxsize=4096)
def _fetched(address: str) -> Path:
    place = cache_folder() / hashlib.sha256(address.encode()).hexdigest()[:16] / address.rpartition("/")[2]
    if not place.is_file():
        with whole_file(place, otherwise=ANOTHER_CACHE) as file:
            copy_to(address, file)
    return place


def _read(url: str, member: Member) -> bytes:
    with local_file(url).open("rb") as file:
        file.seek(member.start)
        return file.read(member.size)
