"""Splits that mislead: photos that occur in two of them, and a split that is one clip.

Two photos are the same if at most `MAX_BITS` of their 128 hash bits differ and their 16x16 grey thumbnails
differ by at most `MAX_LEVELS` levels on average. Measured on VOC and CamVid photos: copies shrunk to 0.4 and
saved again as JPEG stay within 6 bits and 1.3 levels; no train and val photo come within 24 bits and 14 levels.
Neighbouring frames are as near to each other: CamVid's val, seven seconds of one drive, has 4 bits and 2.1 levels
between neighbours (median; 9 and 4.6 at most), VOC's val 63 and 60.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from deeplab.doctor.examined import Examined
from deeplab.doctor.findings import Finding, of_files
from deeplab.doctor.inspect import Inspected
from deeplab.doctor.photo_facts import HASH_BYTES, THUMB_SIDE

MAX_BITS = 12
MAX_LEVELS = 5.0
_ROWS_AT_ONCE = 2048
_LISTED = 8
# fewer photos may be alike by chance
_SHORTEST_CLIP = 10


class Duplicate(NamedTuple):
    """Two photos that look the same; `bits` of their hashes differ."""

    first: Inspected
    second: Inspected
    bits: int


def duplicates_between_splits(items: Sequence[Inspected]) -> list[Duplicate]:
    """Every pair of same photos in different splits, in the data set's order."""
    by_split: dict[str, list[Inspected]] = {}
    for item in items:
        if item.photo is not None and item.photo.thumb:
            by_split.setdefault(item.pair.split, []).append(item)
    return [
        found for first, second in combinations(by_split.values(), 2) for found in _same_photos(first, second)
    ]


def duplicates_within_splits(items: Sequence[Inspected]) -> list[Duplicate]:
    """Each photo whose hash and thumbnail are exactly those of an earlier one of its split."""
    seen: dict[tuple[str, bytes, bytes], Inspected] = {}
    found = []
    for item in items:
        if item.photo is None or not item.photo.thumb:
            continue
        earlier = seen.setdefault((item.pair.split, item.photo.hash, item.photo.thumb), item)
        if earlier is not item:
            found.append(Duplicate(earlier, item, 0))
    return found


def one_clip(items: Sequence[Inspected]) -> bool:
    """Whether photos, in the data set's order, are frames of one clip: nearly each is like the one before."""
    seen = [item for item in items if item.photo is not None and item.photo.thumb]
    if len(seen) < _SHORTEST_CLIP:
        return False
    signs = _signs(seen)
    bits = (8 * HASH_BYTES - (signs[1:] * signs[:-1]).sum(1)) / 2
    alike = sum(
        near <= MAX_BITS and thumb_difference(before, after) <= MAX_LEVELS
        for near, (before, after) in zip(bits, pairwise(seen), strict=True)
    )
    return alike >= 0.95 * len(bits)


def _same_photos(first: Sequence[Inspected], second: Sequence[Inspected]) -> Iterator[Duplicate]:
    signs_a, signs_b = _signs(first), _signs(second)
    for start in range(0, len(first), _ROWS_AT_ONCE):
        # a product of signs counts equal bits minus differing ones, at the speed of a matrix product
        agreement = signs_a[start : start + _ROWS_AT_ONCE] @ signs_b.T
        bits = (8 * HASH_BYTES - agreement) / 2
        for row, column in np.argwhere(bits <= MAX_BITS):
            a, b = first[start + row], second[column]
            if thumb_difference(a, b) <= MAX_LEVELS:
                yield Duplicate(a, b, int(bits[row, column]))


def _signs(items: Sequence[Inspected]) -> np.ndarray:
    """float32 [n, 128] of -1 and 1."""
    packed = np.frombuffer(b"".join(item.photo.hash for item in items if item.photo), np.uint8)
    return np.unpackbits(packed.reshape(-1, HASH_BYTES), axis=1).astype(np.float32) * 2 - 1


def thumb_difference(a: Inspected, b: Inspected) -> float:
    """Mean absolute difference of two thumbnails, in grey levels."""
    first, second = (
        np.frombuffer(item.photo.thumb, np.uint8).astype(np.int16) if item.photo else np.zeros(THUMB_SIDE**2)
        for item in (a, b)
    )
    return float(np.abs(first - second).mean())


def duplicate_findings(data: Examined) -> list[Finding]:
    """Photos that occur in two splits, copies within one, and splits other than train that are one clip."""
    between = duplicates_between_splits(data.items)
    within = duplicates_within_splits(data.items)
    held_out = sorted({item.pair.split for item in data.items} - {"train"})
    clips = [
        (split, split_items)
        for split in held_out
        if one_clip(split_items := [item for item in data.items if item.pair.split == split])
    ]
    return [
        *of_files(
            "duplicate-across-splits",
            "error",
            [data.file(found.second.pair.photo) for found in between],
            what="Photos of two splits look the same (perceptual hash): copies or neighbouring video frames. "
            "Scores would be measured on what was trained on.",
            fix="Keep each photo in one split: take the copies off train, or off val; split videos by sequence.",
            details=[_line(data, found) for found in between[:_LISTED]],
        ),
        *of_files(
            "duplicate-within-split",
            "warning",
            [data.file(found.second.pair.photo) for found in within],
            what="Photos occur twice within a split, and count twice.",
            fix="Remove the copies, unless the repetition is meant.",
            details=[_line(data, found) for found in within[:_LISTED]],
        ),
        *of_files(
            "split-one-clip",
            "warning",
            [data.file(item.pair.photo) for _, split_items in clips for item in split_items],
            what="The photos of a split are frames of one clip, each like the one before. Scores are of one place, "
            "one light and few objects: they jump between runs and choose settings that serve that clip alone.",
            fix="Hold out photos of several clips, whole clips at a time, and report scores with --bootstrap.",
            details=[f"{split}: {len(split_items)} photos" for split, split_items in clips],
        ),
    ]


def _line(data: Examined, found: Duplicate) -> str:
    first, second = found.first.pair, found.second.pair
    return (
        f"{data.file(second.photo)} ({second.split}) is {data.file(first.photo)} ({first.split}); "
        f"{found.bits} of {8 * HASH_BYTES} hash bits differ"
    )
