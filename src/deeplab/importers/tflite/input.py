"""How the values a TensorFlow Lite network computes with follow from pixels 0..255."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from deeplab.config import PixelConfig
from deeplab.errors import UserError
from deeplab.importers.tflite.file import Tensor


@dataclass(frozen=True)
class InputScaling:
    """value = gain * pixel + offset, each of 1 or 3 numbers; `known` is False if the file does not say."""

    gain: np.ndarray
    offset: np.ndarray
    known: bool

    @classmethod
    def stored(cls, tensor: Tensor) -> InputScaling:
        """Scaling by the quantisation of the input tensor; float inputs are prepared outside the file."""
        if tensor.quantisation is None:
            return cls(np.ones(1), np.zeros(1), tensor.dtype == "uint8")
        scale, zero = tensor.quantisation.scale, tensor.quantisation.zero_point.astype(np.float64)
        # by convention int8 inputs are pixels minus 128
        first = 128.0 if tensor.dtype == "int8" else 0.0
        return cls(scale, -scale * (zero + first), True)

    def then(self, kind: str, constant: np.ndarray) -> InputScaling:
        """This scaling followed by MUL, DIV, ADD or SUB with `constant`, of 1 or 3 values."""
        if kind in ("MUL", "DIV"):
            factor = constant if kind == "MUL" else 1 / constant
            return InputScaling(self.gain * factor, self.offset * factor, True)
        return replace(self, offset=self.offset + (constant if kind == "ADD" else -constant), known=True)

    def pixels(self) -> PixelConfig | None:
        """The same as mean and deviation, None if the file does not say."""
        if not self.known:
            return None
        if (self.gain == 0).any():
            raise UserError("the graph multiplies its input by zero")
        return PixelConfig(mean=_three(-self.offset / self.gain), std=_three(1 / self.gain))


def _three(values: np.ndarray) -> tuple[float, float, float]:
    # scales are float32: more digits than seven are noise
    red, green, blue = (float(f"{value:.7g}") for value in np.broadcast_to(values, 3))
    return red, green, blue
