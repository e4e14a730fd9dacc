"""A photo labelled in windows: photos larger than memory or than what a model was trained on.

`blend` labels each window as a photo of its own and averages where they overlap (`blended`), `shared` and `exact` show
it the whole (`tiles`). A photo that one window covers is labelled whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from deeplab.native.upsample_argmax import label_dtype
from deeplab.prediction.blended import BlendedWindows
from deeplab.prediction.network import Network
from deeplab.prediction.strips import Labelled, predict_whole
from deeplab.prediction.tiles import Tiles
from deeplab.prediction.windows import Block, Place, Read, Seams, Sliding, Window, assembled

# cores of 1024 pixels, and 128 beyond them to each side
USUAL = Window(1280, 1280, overlap=0.2)


def slide(
    network: Network,
    size: tuple[int, int],
    *,
    window: Window | None,
    seams: Seams = "blend",
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    confidence: bool = False,
) -> Sliding:
    """The way through a photo of a size.

    Args:
        network, scales, flip: see `deeplab.prediction.inference.predict`.
        size: height and width.
        window, seams: see `Labelling`; None are windows of the usual size.
        confidence: see `predict_whole`.

    Raises:
        UserError: see `Tiles`.
    """
    if window is None and seams == "exact":
        return Tiles(network, size, None, exact=True, confidence=confidence)
    window = window or USUAL
    if window.height >= size[0] and window.width >= size[1]:
        return _Whole(network, size, scales=scales, flip=flip, confidence=confidence)
    if seams == "blend":
        return BlendedWindows(network, size, window, scales=scales, flip=flip, confidence=confidence)
    return Tiles(network, size, window, exact=seams == "exact", confidence=confidence)


@torch.inference_mode()
def predict_in_windows(
    network: Network,
    image: torch.Tensor,
    *,
    window: Window,
    seams: Seams = "blend",
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    confidence: bool = True,
) -> Labelled:
    """Labels and confidence of one image in windows; those of `predict_whole` where one window covers it.

    Args:
        network, scales, flip, confidence, window, seams: see `slide`.
        image: [1, in_channels, H, W], see `deeplab.prediction.inference.predict`.
    """
    height, width = image.shape[-2:]
    way = slide(
        network,
        (height, width),
        window=window,
        seams=seams,
        scales=scales,
        flip=flip,
        confidence=confidence,
    )
    return assembled(way, image)


class _Whole:
    """One block of everything; see `Sliding`."""

    def __init__(
        self,
        network: Network,
        size: tuple[int, int],
        *,
        scales: tuple[float, ...],
        flip: bool,
        confidence: bool,
    ) -> None:
        self._network, self._scales, self._flip, self._confidence = network, scales, flip, confidence
        self.places: Sequence[Place] = [Place(0, 0, *size)]

    def blocks(self, read: Read, *, first: int = 0) -> Iterator[Block]:
        for place in self.places[first:]:
            dtype = label_dtype(self._network.config.num_classes)
            image = read(place)
            if image is None:
                yield Block(place, torch.zeros(place.height, place.width, dtype=dtype), None)
                continue
            found = predict_whole(
                self._network, image, scales=self._scales, flip=self._flip, confidence=self._confidence
            )
            yield Block(place, found.labels.to(dtype), found.confidence)
