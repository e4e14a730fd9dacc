"""What windows over a photo are, however they are labelled: their size, blocks that are done, a way through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch

from deeplab.errors import UserError
from deeplab.prediction.strips import Labelled

Seams = Literal["blend", "shared", "exact"]
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


class Place(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


class Block(NamedTuple):
    """Pixels that are done: where, and what they are, see `Labelled`; labels are uint8, uint16 above 256 classes."""

    place: Place
    labels: torch.Tensor
    confidence: torch.Tensor | None


# the image there as [1, in_channels, H, W], or None where there is nothing to label
Read = Callable[[Place], torch.Tensor | None]


class Sliding(Protocol):
    """A way through a photo in windows.

    Attributes:
        places: of the blocks, in the order in which they come; every pixel lies in one.
    """

    places: Sequence[Place]

    def blocks(self, read: Read, *, first: int = 0) -> Iterator[Block]:
        """The blocks from number `first` on; those before are not labelled."""


def assembled(sliding: Sliding, image: torch.Tensor) -> Labelled:
    """Labels and confidence of one image [1, in_channels, H, W] that is held whole."""
    labels = torch.empty(image.shape[-2:], dtype=torch.int64, device=image.device)
    confidence: torch.Tensor | None = None

    def part(place: Place) -> torch.Tensor:
        return image[..., place.top : place.top + place.height, place.left : place.left + place.width]

    for place, found, sure in sliding.blocks(part):
        rows, columns = (
            slice(place.top, place.top + place.height),
            slice(place.left, place.left + place.width),
        )
        labels[rows, columns] = found.long()
        if sure is not None:
            confidence = torch.empty(labels.shape, device=sure.device) if confidence is None else confidence
            confidence[rows, columns] = sure
    return Labelled(labels, confidence)
