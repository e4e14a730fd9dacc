"""Samples to train and validate on, from a `Source`: checked, renumbered, varied; each draw has its own generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import Dataset

from deeplab.data.augment import to_tensors
from deeplab.data.decoded import DecodedFiles
from deeplab.data.source import Source, check_sample
from deeplab.data.teacher_maps import TeacherMaps

# photo and label; and where there is a teacher, what it says
Sample = tuple[torch.Tensor, ...]
Transform = Callable[..., Sample]


class SegmentationDataset(Dataset[Sample]):
    """Samples of one split.

    `dataset[i]` is sample i as it is seen on draw 0; `dataset[i, draw]` as seen on a later draw (say, an
    epoch). The generator handed to the transform depends on (seed, i, draw) alone, so the samples are the
    same with any number of workers and after any resume.

    Without a transform a sample is (image uint8 [3, H, W] in 0..255, label uint8 [H, W]).

    Attributes:
        teachers: whose maps the transform is given with each photo, as a fourth argument; None at first.

    Raises:
        UserError: when a sample is read, with the file and the fix: a file is broken or of the wrong kind,
            the two differ in size, or the mask holds a value that is no class.
    """

    def __init__(
        self,
        source: Source,
        *,
        transform: Transform | None = None,
        seed: int = 0,
        kept: DecodedFiles | None = None,
    ) -> None:
        """Make samples of `source`; no file is opened before it is asked for.

        Args:
            source: the split.
            transform: (image uint8 [H, W, 3], label uint8 [H, W], generator) to the sample, see `teachers`.
            seed: of all random choices.
            kept: where decoded samples are kept; None decodes each time. Kept ones are not writable.
        """
        self.source = source
        self.transform = transform
        self.seed = seed
        self.kept = kept
        self.teachers: TeacherMaps | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        index, draw = key if isinstance(key, tuple) else (key, 0)
        index = range(len(self))[index]
        image, label = self.load(index)
        if self.transform is None:
            return to_tensors(image, label, rounded=image.dtype == np.uint8)
        taught = () if self.teachers is None else (self.teachers.of(self.source.files(index)[0]),)
        return self.transform(image, label, np.random.default_rng([self.seed, index, draw]), *taught)

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample `index` as decoded: (image as `Source.photo` gives it, label uint8 [H, W])."""
        if self.kept is None:
            return self._decode(index)
        return self.kept.fetch(self.source.files(index), lambda: self._decode(index))

    def _decode(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, label = self.source.photo(index), self.source.label(index)
        check_sample(self.source, index, image=image, label=label)
        return image, label
