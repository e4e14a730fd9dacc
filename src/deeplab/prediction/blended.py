"""Overlapping windows, each labelled as a photo of its own, and blended.

Windows all have one size and end flush with the photo's rim; where they overlap, probabilities are averaged
with weights that fall linearly towards a window's rim, as what a window sees beyond its rim is padding. Only what
other windows will add to is held: the columns that the next window shares, and the rows that the next row of windows
does. Where those rows are many, on wide photos, blocks stand in panels, and windows between two panels run for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from deeplab.native.upsample_argmax import label_dtype
from deeplab.prediction.inference import predict
from deeplab.prediction.network import Network
from deeplab.prediction.strips import confidence_of
from deeplab.prediction.windows import Block, Place, Read, Window

# of the rows that wait for the windows below, and of the labels above them
OPEN_BYTES = 64 << 20


def window_starts(side: int, window: int, *, overlap: float) -> list[int]:
    """First pixels of the fewest windows over `side`, spread evenly, that share `overlap` or more with a neighbour.

    Args:
        side: of the photo, at least 1.
        window: of the window; one as large as the photo is [0].
        overlap: share of the window, 0 to below 1.
    """
    room = side - window
    if room <= 0:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    count = -(-room // step)
    return [room * place // count for place in range(count + 1)]


class BlendedWindows:
    """Windows that overlap, each labelled as a photo of its own, their probabilities averaged; see `Sliding`.

    Args:
        network, scales, flip: see `deeplab.prediction.inference.predict`.
        size: height and width of the photo.
        window: a side beyond the photo's is cut to it.
        confidence: see `predict_whole`.
    """

    def __init__(
        self,
        network: Network,
        size: tuple[int, int],
        window: Window,
        *,
        scales: tuple[float, ...] = (1.0,),
        flip: bool = False,
        confidence: bool = False,
    ) -> None:
        self._network, self._scales, self._flip, self._confidence = network, scales, flip, confidence
        height, width = size
        self._tall, self._wide = min(window.height, height), min(window.width, width)
        self._tops = window_starts(height, self._tall, overlap=window.overlap)
        self._lefts = window_starts(width, self._wide, overlap=window.overlap)
        self._down = _shares(height, self._tall, self._tops)
        self._across = _shares(width, self._wide, self._lefts)
        # rows that the windows of a row share with those below
        self._shared = max((top + self._tall - below for top, below in pairwise(self._tops)), default=0)
        self._panels = self._panels_over(width)
        ends = [*self._tops[1:], height]
        self.places: Sequence[Place] = [
            Place(top, left, end - top, right - left)
            for left, right in self._panels
            for top, end in zip(self._tops, ends, strict=True)
        ]

    def _panels_over(self, width: int) -> list[tuple[int, int]]:
        """First and last columns, plus one, of panels that begin with a window; OPEN_BYTES, or one window."""
        widest = OPEN_BYTES // (4 * self._network.config.num_classes * self._shared + self._tall)
        panels, begin = [], 0
        for start, following in pairwise([*self._lefts, width]):
            if start > begin and following - begin > widest:
                panels.append((begin, start))
                begin = start
        return [*panels, (begin, width)]

    @torch.inference_mode()
    def blocks(self, read: Read, *, first: int = 0) -> Iterator[Block]:
        """See `Sliding.blocks`."""
        count, classes = len(self._tops), self._network.config.num_classes
        # one for all panels: what lives as long as this, in the midst of what a window takes, makes a heap grow
        waiting = torch.zeros(classes, self._shared, max(end - begin for begin, end in self._panels))
        for panel in range(first // count, len(self._panels)):
            yield from self._panel(read, panel, waiting, first=max(0, first - panel * count))

    def _panel(self, read: Read, panel: int, waiting: torch.Tensor, *, first: int) -> Iterator[Block]:
        begin, end = self._panels[panel]
        windows = [
            (left, falling)
            for left, falling in zip(self._lefts, self._across, strict=True)
            if left < end and left + self._wide > begin
        ]
        starts = [max(begin, left) for left, _ in windows]
        dtype, shared = label_dtype(self._network.config.num_classes), 0
        for row, top in enumerate(self._tops):
            if top + self._tall <= self._tops[first]:
                continue
            place = self.places[panel * len(self._tops) + row]
            labels = torch.empty(place.height, end - begin, dtype=dtype)
            sure = torch.empty(place.height, end - begin) if self._confidence else None
            opened = torch.zeros(len(waiting), self._tall, 0)
            for (left, falling), (start, following) in zip(windows, pairwise([*starts, end]), strict=True):
                reached, stop = start + opened.shape[2], min(end, left + self._wide)
                inside = slice(start - left, stop - left)
                sums = self._weighed(read, Place(top, left, self._tall, self._wide), row, falling, inside)
                sums[..., : reached - start] += opened.to(sums.device)
                sums[:, :shared, reached - start :] += waiting[:, :shared, reached - begin : stop - begin].to(
                    sums.device
                )
                done, rest = sums.split([following - start, stop - following], dim=2)
                at = slice(start - begin, following - begin)
                likely = done[:, : place.height].argmax(0)
                labels[:, at] = likely
                if sure is not None:
                    sure[:, at] = confidence_of(done[:, : place.height], likely)
                waiting[:, : self._tall - place.height, at] = done[:, place.height :]
                opened = rest.clone()
                # else it is held while the network labels the next window
                del sums, done, rest, likely
            shared = self._tall - place.height
            if row >= first:
                yield Block(place, labels, sure)

    def _weighed(
        self, read: Read, place: Place, row: int, falling: torch.Tensor, inside: slice
    ) -> torch.Tensor:
        """float32 [C, H, columns inside]: probabilities of one window by its weights; zeros if there is nothing."""
        image = read(place)
        if image is None:
            return torch.zeros(self._network.config.num_classes, place.height, inside.stop - inside.start)
        found = predict(self._network, image, scales=self._scales, flip=self._flip)["semantic"]
        sums = found.probabilities[0].float()[..., inside]
        weights = self._down[row][:, None] * falling[inside]
        return sums.mul_(weights.to(sums.device))


def _shares(side: int, window: int, starts: list[int]) -> torch.Tensor:
    """float32 [windows, window]: weights that fall to the window's rim and sum to 1 at every pixel of `side`."""
    places = torch.arange(window)
    ramp = torch.minimum(places + 1, window - places).double()
    total = torch.zeros(side, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += ramp
    return torch.stack([ramp / total[start : start + window] for start in starts]).float()
