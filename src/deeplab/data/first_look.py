"""A look at a split before anything is computed on it: whether its labels say something, and its files can be read.

Its cost is bounded: samples are taken all over the split, in an order that is the same each time, until all are seen
or the time is up; what lies elsewhere is not fetched for it.
"""

from __future__ import annotations

import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from deeplab.data.label_rules import absent_classes, only_class, without_labels
from deeplab.data.source import IGNORE_LABEL, Source, check_sample, check_values
from deeplab.errors import UserError

LABEL_SECONDS = 2.0
"""For masks alone."""
PAIR_SECONDS = 20.0
"""For photos and masks."""
READERS = min(2, os.cpu_count() or 1)
NAMES_SHOWN = 5
FILES_SHOWN = 3


class Look(NamedTuple):
    """What was seen.

    Attributes:
        samples: how many.
        pixels: int64 [256], pixels of each value.
        unlabelled: the files of masks that label nothing.
    """

    samples: int
    pixels: np.ndarray
    unlabelled: tuple[str, ...]


def look_at(source: Source, *, photos: bool = False) -> Look:
    """Read the samples, for `PAIR_SECONDS` with their photos, else for `LABEL_SECONDS`.

    Raises:
        UserError: one cannot be read, has a value that is no class, or differs in size from its photo; it names the
            file.
    """

    def histogram(index: int) -> list[int]:
        label = source.label(index)
        if photos:
            check_sample(source, index, image=source.photo(index), label=label)
        else:
            check_values(source, index, label)
        return Image.fromarray(label).histogram()

    end = time.monotonic() + (PAIR_SECONDS if photos else LABEL_SECONDS)
    every = np.random.default_rng(0).permutation(len(source)).tolist()
    order = [index for index in every if source.at_hand(index)]
    pixels, samples = np.zeros(256, np.int64), 0
    unlabelled: list[int] = []
    # decoders let other threads run meanwhile
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(order), 4 * READERS):
            part = order[start : start + 4 * READERS]
            for index, counts in zip(part, pool.map(histogram, part), strict=True):
                pixels += counts
                unlabelled += [] if any(counts[:IGNORE_LABEL]) else [index]
            samples += len(part)
            if time.monotonic() > end:
                break
    return Look(samples, pixels, tuple(source.files(index)[1] for index in sorted(unlabelled)))


def warn_of_labels(source: Source, look: Look, split: str, *, scored: bool) -> None:
    """Warn where the labels seen lack a class, show one alone, or nothing.

    Args:
        source: a split.
        look: at it.
        split: its name.
        scored: whether it is measured rather than trained on.

    Raises:
        UserError: all masks were seen, and no pixel of them is labelled.
    """
    partly = "" if look.samples == len(source) else f" ({look.samples} of {len(source)} masks looked at)"
    place, pixels = f"{split}{partly}", look.pixels[: len(source.classes)]
    if look.unlabelled:
        everything = look.samples == len(source) == len(look.unlabelled)
        judged = without_labels(IGNORE_LABEL, everything=everything)
        files = ", ".join(look.unlabelled[:FILES_SHOWN])
        count = f"{len(look.unlabelled)} of {look.samples}, first: {files}"
        said = UserError(f"{place}: {judged.what} ({count})", fix=judged.fix)
        if everything:
            raise said
        warnings.warn(str(said), stacklevel=2)
    if not pixels.any():
        return
    if only := only_class(pixels, source.classes, place):
        ignored = look.pixels[IGNORE_LABEL] / look.pixels.sum()
        rest = f", and {ignored:.1%} of all pixels are {IGNORE_LABEL}, which is ignored" if ignored else ""
        what = f"{only.what}{rest} ({look.samples} masks, first: {source.files(0)[1]})"
        warnings.warn(str(UserError(what, fix=only.fix)), stacklevel=2)
    elif absent := absent_classes(pixels, source.classes, split, scored=scored, place=place):
        more = ", ..." if len(absent.classes) > NAMES_SHOWN else ""
        what = f"{absent.what} ({', '.join(absent.classes[:NAMES_SHOWN])}{more})"
        warnings.warn(str(UserError(what, fix=absent.fix)), stacklevel=2)
