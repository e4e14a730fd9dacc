"""A photo labelled in overlapping windows, blended: photos larger than memory or than what a model was trained on.

Windows all have one size and end flush with the photo's rim; where they overlap, probabilities are averaged
with weights that fall linearly towards a window's rim, as what a window sees beyond its rim is padding. Only
the rows that one row of windows covers are held, [classes, window height, photo width].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deeplab.errors import UserError
from deeplab.prediction.inference import predict
from deeplab.prediction.network import Network
from deeplab.prediction.strips import Labelled, confidence_of, predict_whole

# smaller ones, or more that is shared, are a pass of the network for every few pixels
SMALLEST, LARGEST, MOST_SHARED = 16, 1 << 16, 0.9


@dataclass(frozen=True)
class Window:
    """Height and width in pixels, and the least share of a side that neighbours share, 0 to 0.9.

    Raises:
        UserError: a side or the overlap is out of range.
    """

    height: int
    width: int
    overlap: float = 1 / 3

    def __post_init__(self) -> None:
        sides = sorted((self.height, self.width))
        if not (sides[0] >= SMALLEST and sides[1] <= LARGEST and 0 <= self.overlap <= MOST_SHARED):
            raise UserError(
                f"window {self.height} x {self.width} with overlap {self.overlap}",
                allowed=f"sides from {SMALLEST} to {LARGEST}, an overlap from 0 to {MOST_SHARED}",
                fix="try --window 513 513 --overlap 0.33",
            )


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


@torch.inference_mode()
def predict_in_windows(
    network: Network,
    image: torch.Tensor,
    *,
    window: Window,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    confidence: bool = True,
) -> Labelled:
    """Labels and confidence of one image in windows; those of `predict_whole` where one window covers it.

    Args:
        network, scales, flip: see `deeplab.prediction.inference.predict`.
        image: [1, in_channels, H, W], see there.
        confidence: see `predict_whole`.
        window: a side beyond the image's is cut to it.
    """
    height, width = image.shape[-2:]
    tall, wide = min(window.height, height), min(window.width, width)
    if (tall, wide) == (height, width):
        return predict_whole(network, image, scales=scales, flip=flip, confidence=confidence)
    tops = window_starts(height, tall, overlap=window.overlap)
    lefts = window_starts(width, wide, overlap=window.overlap)
    down = _shares(height, tall, tops).to(image.device)
    across = _shares(width, wide, lefts).to(image.device)
    labelled: list[torch.Tensor] = []
    sure: list[torch.Tensor] = []
    open_rows: torch.Tensor | None = None
    for row, (top, following) in enumerate(zip(tops, [*tops[1:], height], strict=True)):
        for column, left in enumerate(lefts):
            part = image[..., top : top + tall, left : left + wide]
            found = predict(network, part, scales=scales, flip=flip)["semantic"].probabilities[0].float()
            if open_rows is None:
                open_rows = found.new_zeros(found.shape[0], tall, width)
            open_rows[..., left : left + wide] += found * (down[row][:, None] * across[column])
        assert open_rows is not None
        ready = open_rows[:, : following - top]
        labelled.append(ready.argmax(0))
        if confidence:
            sure.append(confidence_of(ready, labelled[-1]))
        kept = open_rows[:, following - top :].clone()
        open_rows[:, : kept.shape[1]] = kept
        open_rows[:, kept.shape[1] :] = 0
    return Labelled(torch.cat(labelled), torch.cat(sure) if confidence else None)


def _shares(side: int, window: int, starts: list[int]) -> torch.Tensor:
    """float32 [windows, window]: weights that fall to the window's rim and sum to 1 at every pixel of `side`."""
    places = torch.arange(window)
    ramp = torch.minimum(places + 1, window - places).double()
    total = torch.zeros(side, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += ramp
    return torch.stack([ramp / total[start : start + window] for start in starts]).float()
