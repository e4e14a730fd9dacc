"""Ways from files to a normalised training crop: each function builds one for `harness.worker`.

Each call makes a crop of every pair, one after the other, and returns the last as float32 [3, side, side]. All of
them decode photo and mask, scale by the same factors, pad, crop, flip, and normalise to -1..1. The peers take the
fastest correct decoder that is at hand: OpenCV for photos and grey masks, Pillow for masks with a palette.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
MIDDLE, PADDING, IGNORED = 127.5, 128, 255
Array = np.ndarray
Crop = Callable[[], Array]
Pairs = Sequence[tuple[str, str]]


class Choice(NamedTuple):
    """What is random: the factor, where between 0 and 1 the crop begins, and the flip."""

    scale: float
    row: float
    column: float
    flip: bool

    def start(self, height: int, width: int, side: int) -> tuple[int, int]:
        """Top left corner of the crop in a padded photo."""
        return int(self.row * (height - side + 1)), int(self.column * (width - side + 1))


def choices() -> Iterator[Choice]:
    """The same ones for each variant, for ever; every scale equally often."""
    rng = np.random.default_rng(0)
    for scale in cycle(SCALES):
        yield Choice(scale, rng.random(), rng.random(), bool(rng.random() < 0.5))


def ours(*, pairs: Pairs, side: int, compiled: bool = True, kept: str | None = None) -> Crop:
    """This package's data set with its training transform, then the network's normalisation.

    With a folder for `kept`, photos are decoded by the first call only.
    """
    import torch

    from deeplab.data.augment import TrainAugment
    from deeplab.data.dataset import SegmentationDataset
    from deeplab.data.decoded import DecodedFiles
    from deeplab.data.layouts.masks import IndexMasks
    from deeplab.data.stored import Item, StoredSplit
    from deeplab.model.normalise import normalise
    from deeplab.system.memory import keep_freed_memory

    # as the trainer does
    keep_freed_memory()
    torch.set_num_threads(1)
    if not compiled:
        os.environ["DEEPLAB_KERNELS"] = "plain"
    items = tuple(Item(str(index), *pair) for index, pair in enumerate(pairs))
    split = StoredSplit(classes=tuple(map(str, range(IGNORED))), origin="", items=items, read=IndexMasks())
    dataset = SegmentationDataset(
        split,
        transform=TrainAugment(crop_size=(side, side)),
        kept=DecodedFiles(Path(kept)) if kept else None,
    )
    middle = torch.full((1, 3, 1, 1), MIDDLE)
    draws = iter(range(1 << 40))

    def run() -> Array:
        draw = next(draws)
        for index in range(len(dataset)):
            image, _ = dataset[index, draw]
            crop = normalise(image[None], middle, middle)
        return crop[0].numpy()

    return run


def opencv_steps(*, pairs: Pairs, side: int) -> Crop:
    """As mmsegmentation does: OpenCV's resize, crop and flip on bytes; the model normalises, turns BGR and pads."""
    import cv2
    import torch

    cv2.setNumThreads(0)
    drawn, middle = choices(), torch.full((3, 1, 1), MIDDLE)

    def load(photo: str, mask: str) -> Array:
        choice = next(drawn)
        image, label = cv2.imread(photo), _read_mask(mask)
        height, width = label.shape
        size = int(width * choice.scale + 0.5), int(height * choice.scale + 0.5)
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        top, left = choice.start(max(size[1], side), max(size[0], side), side)
        image, label = (
            image[top : top + side, left : left + side],
            label[top : top + side, left : left + side],
        )
        if choice.flip:
            image, label = np.flip(image, axis=1), np.flip(label, axis=1)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        labels = torch.from_numpy(np.ascontiguousarray(label).astype(np.int64))
        right, bottom = side - labels.shape[1], side - labels.shape[0]
        torch.nn.functional.pad(labels, (0, right, 0, bottom), value=IGNORED)
        pixels = (pixels[[2, 1, 0]].float() - middle) / middle
        return torch.nn.functional.pad(pixels, (0, right, 0, bottom)).numpy()

    return _over(pairs, load)


def opencv_warp(*, pairs: Pairs, side: int) -> Crop:
    """The best known to be possible with OpenCV: one warpAffine scales, pads, crops and flips, straight to the crop."""
    import cv2

    cv2.setNumThreads(0)
    drawn = choices()

    def load(photo: str, mask: str) -> Array:
        choice = next(drawn)
        image, label = cv2.cvtColor(cv2.imread(photo), cv2.COLOR_BGR2RGB), _read_mask(mask)
        scaled = [int(length * choice.scale) for length in label.shape]
        top, left = choice.start(max(scaled[0], side), max(scaled[1], side), side)
        factor, shift = 1 / choice.scale, left / choice.scale
        across = (-factor, shift + (side - 1) * factor) if choice.flip else (factor, shift)
        matrix = np.array([[across[0], 0, across[1]], [0, factor, top * factor]])
        options = {"dsize": (side, side), "borderMode": cv2.BORDER_CONSTANT}
        inverse = cv2.WARP_INVERSE_MAP
        image = cv2.warpAffine(
            image, matrix, flags=cv2.INTER_LINEAR | inverse, borderValue=(PADDING,) * 3, **options
        )
        cv2.warpAffine(label, matrix, flags=cv2.INTER_NEAREST | inverse, borderValue=IGNORED, **options)
        pixels = image.astype(np.float32)
        pixels -= np.float32(MIDDLE)
        pixels *= np.float32(1 / MIDDLE)
        return pixels.transpose(2, 0, 1)

    return _over(pairs, load)


def albumentations(*, pairs: Pairs, side: int) -> Crop:
    """The pipeline of its documentation for segmentation, with the same scales."""
    import albumentations as library
    import cv2
    from albumentations.pytorch import ToTensorV2

    cv2.setNumThreads(0)
    scales = [library.RandomScale((scale - 1, scale - 1), p=1) for scale in SCALES]
    steps = [
        library.OneOf(scales, p=1),
        library.PadIfNeeded(
            side, side, position="top_left", border_mode=cv2.BORDER_CONSTANT, fill=PADDING, fill_mask=IGNORED
        ),
        library.RandomCrop(side, side),
        library.HorizontalFlip(p=0.5),
        library.Normalize(mean=(0.5,) * 3, std=(0.5,) * 3),
        ToTensorV2(),
    ]
    pipeline = library.Compose(steps, seed=0)

    def load(photo: str, mask: str) -> Array:
        image = cv2.cvtColor(cv2.imread(photo), cv2.COLOR_BGR2RGB)
        return pipeline(image=image, mask=_read_mask(mask))["image"].numpy()

    return _over(pairs, load)


def torchvision_v2(*, pairs: Pairs, side: int) -> Crop:
    """Transforms v2 on tensors of bytes, which its documentation calls the fastest; photos decoded by OpenCV."""
    import cv2
    import torch

    # the names that torchvision needs beside a CPU build of torch, where its compiled half does not load
    if not hasattr(torch.ops.torchvision, "nms"):
        names = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            names.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision import tv_tensors as tensors
    from torchvision.transforms import v2

    cv2.setNumThreads(0)
    drawn, steps = choices(), v2.functional
    fill = {tensors.Image: PADDING, tensors.Mask: IGNORED}
    random = v2.Compose(
        [
            v2.RandomCrop(side, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(0.5),
            v2.ToDtype({tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )

    def load(photo: str, mask: str) -> Array:
        scale = next(drawn).scale
        pixels = cv2.cvtColor(cv2.imread(photo), cv2.COLOR_BGR2RGB)
        image = tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
        label = tensors.Mask(torch.from_numpy(_read_mask(mask)))
        size = [int(length * scale) for length in label.shape]
        image = steps.resize(image, size, antialias=False)
        label = steps.resize(label, size, interpolation=v2.InterpolationMode.NEAREST)
        return random(image, label)[0].numpy()

    return _over(pairs, load)


def _over(pairs: Pairs, load: Callable[[str, str], Array]) -> Crop:
    def run() -> Array:
        for pair in pairs:
            crop = load(*pair)
        return crop

    return run


def _read_mask(path: str) -> Array:
    from PIL import Image

    with Image.open(path) as image:
        if image.mode == "P":
            return np.array(image)
    import cv2

    return cv2.imread(path, cv2.IMREAD_GRAYSCALE)
