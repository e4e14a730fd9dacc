"""A network that is shown a window of an image computes what it would of the whole: `view` says where the window lies.

Two things of a network depend on more than what a convolution reaches: means over a map, and maps that are resized to
another's size, since aligned corners stretch them by the image's own sides. Inside `seeing(view)` both are the whole
image's. What the convolutions see of the window's rim is the caller's to provide for, see `deeplab.model.reach`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch

from deeplab.errors import UserError

# of an image's side over a map's
STRIDES = (1, 2, 4, 8, 16, 32)


class Side(NamedTuple):
    """One axis of a window: pixels of the whole image; the first and last, plus one, of the window and of its core."""

    whole: int
    start: int
    end: int
    core: tuple[int, int]

    def stride_of(self, length: int) -> int:
        """The stride of a map that is `length` positions long for the window.

        Raises:
            UserError: it is no map of the image, but of windows over one.
        """
        for stride in STRIDES:
            if -(-(self.end - self.start) // stride) == length:
                return stride
        raise UserError(
            "this network pools over windows of a map, and what they give depends on the image's size",
            fix="blended windows (--seams blend)",
        )


class Enough(Exception):
    """A mean was gathered: the rest of the network need not run."""


class View:
    """A window's place, and means over whole maps.

    Args:
        rows, columns: of the window.
        means: of whole maps [N, C, 1, 1], in the order in which the network asks for them. Beyond them it gets the
            window's own.
        gather: add up the first one that is not there, over the window's core, and raise `Enough`.

    Attributes:
        asked: how many means were asked for.
        total: float64 [C] on the CPU, what was gathered; and over how many positions.
    """

    def __init__(
        self, rows: Side, columns: Side, *, means: Sequence[torch.Tensor] = (), gather: bool = False
    ) -> None:
        self.sides = rows, columns
        self.means, self.gather = means, gather
        self.asked = 0
        self.total: tuple[torch.Tensor, int] | None = None

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, 1, 1] of a map [N, C, h, w] of the window."""
        self.asked += 1
        if self.asked <= len(self.means):
            return self.means[self.asked - 1].to(x.device, x.dtype)
        if self.gather:
            for dim, side in ((2, self.sides[0]), (3, self.sides[1])):
                stride = side.stride_of(x.shape[dim])
                first, last = (-(-(pixel - side.start) // stride) for pixel in side.core)
                x = x.narrow(dim, first, last - first)
            # not every device has double precision
            self.total = x.cpu().double().sum((0, 2, 3)), x.shape[2] * x.shape[3]
            raise Enough
        return x.mean((2, 3), keepdim=True)

    def places(self, dim: int, source: int, target: int) -> tuple[Side, int, int]:
        """The window's side along `dim`, and the strides of maps of `source` and `target` positions."""
        side = self.sides[dim - 2]
        return side, side.stride_of(source), side.stride_of(target)


_VIEW: ContextVar[View | None] = ContextVar("view", default=None)


@contextmanager
def seeing(view: View) -> Iterator[View]:
    """Networks that run inside are shown a window."""
    token = _VIEW.set(view)
    try:
        yield view
    finally:
        _VIEW.reset(token)


def current_view() -> View | None:
    """What the network is shown, None for a whole image."""
    # exported programs are for whole images, and not every tracer knows context variables
    return None if torch.compiler.is_compiling() or torch.jit.is_tracing() else _VIEW.get()


def map_mean(x: torch.Tensor) -> torch.Tensor:
    """Mean over height and width, of the whole image's map where a window is shown: [N, C, h, w] -> [N, C, 1, 1]."""
    view = current_view()
    return x.mean((2, 3), keepdim=True) if view is None else view.mean(x)
