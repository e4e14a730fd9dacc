"""Windows that are shown what the whole image is: their labels are the whole image's, or nearly.

Four things make a window's logits those of the whole image: means over whole maps come from it (`layers.view`; they are
gathered over all windows in passes before, one for each mean), windows begin at multiples of the network's stride and
leave the remainder by it that the image leaves, maps are resized as the whole's, and of each window only a core counts,
at a distance from its rim. With `exact` that distance is what the network sees (`deeplab.model.reach`), with
`shared` half of what windows overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from deeplab.errors import UserError
from deeplab.layers.view import Enough, Side, View, seeing
from deeplab.model.network import DeepLab
from deeplab.model.reach import reach_of
from deeplab.native.upsample_argmax import axis, label_dtype
from deeplab.prediction.network import Network
from deeplab.prediction.strips import labelled_along
from deeplab.prediction.windows import Block, Place, Read, Window

ELSE = "blended windows (--seams blend)"
# of the core where nobody says how large windows are
USUAL_CORE = 1024


class Gathered(NamedTuple):
    """How far the passes before have come.

    Attributes:
        means: of whole maps, [1, C, 1, 1], those that are known.
        total: float64 [C], of the next one over windows before number `following`, and over how many positions.
    """

    means: tuple[torch.Tensor, ...] = ()
    total: torch.Tensor | None = None
    positions: int = 0
    following: int = 0


class Tiles:
    """A way through a photo in tiles; see `deeplab.prediction.windows.Sliding`.

    Args:
        network: a `DeepLab` that computes in floats.
        size: height and width of the photo.
        window: about what a window is, its sides are rounded; None is made as large as it needs to be.
        exact: whether the labels have to be the whole photo's.
        confidence: see `predict_whole`.

    Attributes:
        reach: of the network.
        gathered: means of the whole photo, or as many as are known.

    Raises:
        UserError: another network, one whose reach cannot be told, or windows that are smaller than it needs.
    """

    def __init__(
        self,
        network: Network,
        size: tuple[int, int],
        window: Window | None,
        *,
        exact: bool,
        confidence: bool = False,
    ) -> None:
        if not isinstance(network, DeepLab) or network.eight_bit:
            raise UserError("only PyTorch in floats can show a network what lies beyond a window", fix=ELSE)
        self._network, self._size, self._confidence = network, size, confidence
        self.reach = reach_of(network.config, network.output_stride)
        self.gathered = Gathered()
        rows, columns = (
            _sides(length, sought, window, reach=self.reach.pixels if exact else None, grid=self.reach.grid)
            for length, sought in zip(
                size, (None, None) if window is None else (window.height, window.width), strict=True
            )
        )
        self._sides = [(row, column) for row in rows for column in columns]
        self.places: Sequence[Place] = [
            Place(row.core[0], column.core[0], row.core[1] - row.core[0], column.core[1] - column.core[0])
            for row, column in self._sides
        ]

    @property
    def passes(self) -> int:
        """How often the photo is read before its labels come."""
        return self.reach.means - len(self.gathered.means)

    @torch.inference_mode()
    def gather(self, read: Read) -> Iterator[Place]:
        """Go through the photo for the means that are not known; yields the core of each window that was seen."""
        while self.passes:
            done = self.gathered
            for number in range(done.following, len(self.places)):
                image = read(_window(*self._sides[number]))
                if image is not None:
                    view = View(*self._sides[number], means=done.means, gather=True)
                    try:
                        with seeing(view):
                            self._network.low_resolution_logits(image)
                    except Enough:
                        pass
                    assert view.total is not None
                    total = view.total[0] if done.total is None else done.total + view.total[0]
                    done = done._replace(total=total, positions=done.positions + view.total[1])
                self.gathered = done = done._replace(following=number + 1)
                yield self.places[number]
            if done.total is None:
                return
            mean = (done.total / done.positions).float()[None, :, None, None]
            self.gathered = Gathered((*done.means, mean))

    @torch.inference_mode()
    def blocks(self, read: Read, *, first: int = 0) -> Iterator[Block]:
        """The blocks from number `first` on, read once more for every mean that is not known yet."""
        for _ in self.gather(read):
            pass
        config, dtype = self._network.config, label_dtype(self._network.config.num_classes)
        for number in range(first, len(self.places)):
            sides, place = self._sides[number], self.places[number]
            image = read(_window(*sides))
            if image is None:
                yield Block(place, torch.zeros(place.height, place.width, dtype=dtype), None)
                continue
            with seeing(View(*sides, means=self.gathered.means)):
                logits = self._network.low_resolution_logits(image)["semantic"]
            along = []
            for side, length in zip(sides, logits.shape[-2:], strict=True):
                stride = side.stride_of(length)
                whole = axis(-(-side.whole // stride), side.whole, config.resize)
                along.append(whole.part(*side.core, source=side.start // stride))
            found = labelled_along(logits, *along, confidence=self._confidence)
            yield Block(place, found.labels.to(dtype), found.confidence)


def _sides(
    whole: int, sought: int | None, window: Window | None, *, reach: int | None, grid: int
) -> list[Side]:
    """The windows along one axis.

    Args:
        whole: pixels of the photo.
        sought: of a window.
        reach: of the network, None where cores keep half the overlap.
        grid: see `Reach`.
    """
    if reach is not None:
        # resized maps are stretched by up to a stride, and logits are read on both sides of a pixel
        halo = -(-reach // grid) * grid + 2 * grid
    else:
        assert window is not None and sought is not None
        # at least what the first pixels of a core are interpolated from
        halo = max(grid, int(sought * window.overlap / 2) // grid * grid)
    core = USUAL_CORE if sought is None else (sought - 2 * halo) // grid * grid
    if core < grid and sought is not None and sought < whole:
        raise UserError(
            f"windows of {sought} pixels are too small: they are to reach {halo} beyond what is labelled, to each side",
            allowed=f"from {2 * halo + grid}, better twice that",
            fix=f"--window {4 * halo} {4 * halo}, or {ELSE}",
        )
    length = core + 2 * halo
    length += (whole - length) % grid
    if length >= whole:
        return [Side(whole, 0, whole, (0, whole))]
    sides = []
    for begin in range(0, whole, core):
        start = min(max(0, begin - halo), whole - length)
        sides.append(Side(whole, start, start + length, (begin, min(begin + core, whole))))
    return sides


def _window(rows: Side, columns: Side) -> Place:
    return Place(rows.start, columns.start, rows.end - rows.start, columns.end - columns.start)
