"""Overlapping windows, each labelled as a photo of its own, and blended.

Windows all have one size and end flush with the photo's rim; where they overlap, probabilities are averaged
with weights that fall linearly towards a window's rim, as what a window sees beyond its rim is padding. Only the
windows that are open are held: on wide photos blocks stand in panels, and windows between two panels run for both.
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

# of probabilities that wait for the windows that overlap them
OPEN_BYTES = 256 << 20


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
        self._panels = self._panels_over(width)
        ends = [*self._tops[1:], height]
        self.places: Sequence[Place] = [
            Place(top, left, end - top, right - left)
            for left, right in self._panels
            for top, end in zip(self._tops, ends, strict=True)
        ]

    def _panels_over(self, width: int) -> list[tuple[int, int]]:
        """First and last columns, plus one, of panels that begin with a window; OPEN_BYTES, or one window."""
        widest = OPEN_BYTES // (4 * self._network.config.num_classes * self._tall)
        panels, begin = [], 0
        for start, following in pairwise([*self._lefts, width]):
            if start > begin and following - begin > widest:
                panels.append((begin, start))
                begin = start
        return [*panels, (begin, width)]

    @torch.inference_mode()
    def blocks(self, read: Read, *, first: int = 0) -> Iterator[Block]:
        """See `Sliding.blocks`."""
        count = len(self._tops)
        for panel in range(first // count, len(self._panels)):
            yield from self._panel(read, panel, first=max(0, first - panel * count))

    def _panel(self, read: Read, panel: int, *, first: int) -> Iterator[Block]:
        begin, end = self._panels[panel]
        reaching = [
            column for column, left in enumerate(self._lefts) if left < end and left + self._wide > begin
        ]
        dtype = label_dtype(self._network.config.num_classes)
        open_rows: torch.Tensor | None = None
        for row, top in enumerate(self._tops):
            if top + self._tall <= self._tops[first]:
                continue
            for column in reaching:
                left = self._lefts[column]
                part = read(Place(top, left, self._tall, self._wide))
                if part is None:
                    continue
                found = predict(self._network, part, scales=self._scales, flip=self._flip)["semantic"]
                shares = found.probabilities[0].float()
                if open_rows is None:
                    open_rows = shares.new_zeros(shares.shape[0], self._tall, end - begin)
                seen = slice(max(begin, left), min(end, left + self._wide))
                inside = slice(seen.start - left, seen.stop - left)
                weights = self._down[row][:, None] * self._across[column][inside]
                open_rows[..., seen.start - begin : seen.stop - begin] += shares[..., inside] * weights.to(
                    shares.device
                )
            place = self.places[panel * len(self._tops) + row]
            if open_rows is None:
                open_rows = torch.zeros(self._network.config.num_classes, self._tall, end - begin)
            ready = open_rows[:, : place.height]
            if row >= first:
                labels = ready.argmax(0)
                sure = confidence_of(ready, labels) if self._confidence else None
                yield Block(place, labels.to(dtype), sure)
            kept = open_rows[:, place.height :].clone()
            open_rows[:, : kept.shape[1]] = kept
            open_rows[:, kept.shape[1] :] = 0


def _shares(side: int, window: int, starts: list[int]) -> torch.Tensor:
    """float32 [windows, window]: weights that fall to the window's rim and sum to 1 at every pixel of `side`."""
    places = torch.arange(window)
    ramp = torch.minimum(places + 1, window - places).double()
    total = torch.zeros(side, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += ramp
    return torch.stack([ramp / total[start : start + window] for start in starts]).float()
