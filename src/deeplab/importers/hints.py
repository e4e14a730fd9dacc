"""What a weights file does not hold and a user knows: given on the command line, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple


class Hints(NamedTuple):
    """Values for what the file leaves open; None where nothing is said.

    Attributes:
        rates: of the atrous branches, at `output_stride`.
        output_stride: input side over feature side.
        multi_grid: unit rates of the last block.
        decoder_strides: of the decoder's stages, descending.
        pooling_crop: height and width in pixels that the image pooling's window is made for.
        pooling_stride: of that window, vertical and horizontal.
        gate: the sigmoid of a squeeze-and-excite head.
        cell: JSON file of a dense prediction cell.
        threshold: of the sigmoid of a model of one class.
        weights: which of a file's two sets: those of the last step, or their moving averages ('ema').
    """

    rates: tuple[int, ...] | None = None
    output_stride: int | None = None
    multi_grid: tuple[int, ...] | None = None
    decoder_strides: tuple[int, ...] | None = None
    pooling_crop: tuple[int, int] | None = None
    pooling_stride: tuple[int, int] | None = None
    gate: str | None = None
    cell: Path | None = None
    threshold: float | None = None
    weights: Literal["plain", "ema"] | None = None

    def given(self) -> dict[str, Any]:
        """Those that say something, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def of_structure(self) -> dict[str, Any]:
        """Those that say something of the network, by name."""
        return {name: value for name, value in self.given().items() if name not in ("threshold", "weights")}


def flag(name: str) -> str:
    """How the command line calls a hint: 'output_stride' -> '--output-stride'."""
    return f"--{name.replace('_', '-')}"
