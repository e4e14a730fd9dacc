"""Copy-paste: what one photo shows of a class is laid over another photo.

After Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method" (arXiv 2012.07177), with regions
of a class in place of instances.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from torch.utils.data import Dataset

from deeplab.data.augment import to_tensors
from deeplab.data.dataset import Sample, Transform
from deeplab.errors import UserError

Array = np.ndarray


class Photos(Protocol):
    """What is pasted into and from, such as a `SegmentationDataset`."""

    transform: Transform | None
    seed: int

    def __len__(self) -> int: ...

    def load(self, index: int) -> tuple[Array, Array]:
        """(image uint8 [H, W, 3], label uint8 [H, W]) of sample `index`."""
        ...


class CopyPaste(Dataset[Sample]):
    """`dataset` with regions of other samples pasted in before its transform.

    Samples depend on (seed, index, draw) alone, as in `SegmentationDataset`; what is not pasted into is the
    same as without this wrapper only where `probability` is 0, as the draws come from one generator.

    Args:
        dataset: of photos with label maps.
        classes: indices of the classes that may be copied; from a donor one that it shows is drawn.
        probability: share of samples that are given something.
        keep_row: see `paste`.

    Raises:
        UserError: no classes, or a probability that is none.
    """

    def __init__(
        self, dataset: Photos, *, classes: tuple[int, ...], probability: float, keep_row: bool = False
    ) -> None:
        if not 0 <= probability <= 1 or not classes:
            raise UserError(
                f"copy-paste has classes {classes} and probability {probability}",
                allowed="at least one class, 0..1",
            )
        self.dataset = dataset
        self.classes = classes
        self.probability = probability
        self.keep_row = keep_row

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        index, draw = key if isinstance(key, tuple) else (key, 0)
        index = range(len(self))[index]
        rng = np.random.default_rng([self.dataset.seed, index, draw])
        image, label = self.dataset.load(index)
        if self.probability and rng.random() < self.probability:
            image, label = self._given_a_region(image, label, rng)
        transform = self.dataset.transform
        if transform is None:
            return to_tensors(image, label, rounded=image.dtype == np.uint8)
        return transform(image, label, rng)

    def _given_a_region(self, image: Array, label: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        donor_image, donor_label = self.dataset.load(int(rng.integers(len(self))))
        if rng.random() < 0.5:
            donor_image, donor_label = donor_image[:, ::-1], donor_label[:, ::-1]
        present = [index for index in self.classes if (donor_label == index).any()]
        if not present:
            return image, label
        mask = donor_label == present[rng.integers(len(present))]
        return paste(image, label, donor_image, donor_label, mask=mask, rng=rng, keep_row=self.keep_row)


def paste(
    image: Array,
    label: Array,
    donor_image: Array,
    donor_label: Array,
    *,
    mask: Array,
    rng: np.random.Generator,
    keep_row: bool = False,
) -> tuple[Array, Array]:
    """Lay the masked pixels of a donor over a photo, their bounding box at a place drawn uniformly.

    Args:
        image: uint8 [H, W, 3].
        label: uint8 [H, W].
        donor_image: uint8 [h, w, 3], any size.
        donor_label: uint8 [h, w].
        mask: bool [h, w], True somewhere.
        rng: of the place; and, of a region larger than the photo, of the part that is taken.
        keep_row: the region's lower edge comes as far down the photo, by its height, as it was in the donor.

    Returns:
        new arrays (image, label); those given stay as they are.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    source, target = [], []
    for first, last, room in ((rows[0], rows[-1], label.shape[0]), (columns[0], columns[-1], label.shape[1])):
        length = min(int(last - first) + 1, room)
        start = int(first) + int(rng.integers(int(last - first) + 1 - length + 1))
        place = int(rng.integers(room - length + 1))
        source.append(slice(start, start + length))
        target.append(slice(place, place + length))
    if keep_row:
        height, length = label.shape[0], target[0].stop - target[0].start
        bottom = round(source[0].stop * height / donor_label.shape[0])
        bottom = min(max(bottom, length), height)
        target[0] = slice(bottom - length, bottom)
    into, out_of = tuple(target), tuple(source)
    image, label, chosen = image.copy(), label.copy(), mask[out_of]
    image[into][chosen] = donor_image[out_of][chosen]
    label[into][chosen] = donor_label[out_of][chosen]
    return image, label
