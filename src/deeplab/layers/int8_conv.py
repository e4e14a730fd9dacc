"""A dense convolution in 8 bits for inference on the CPU, on a grid that was chosen from photos."""

from __future__ import annotations

from typing import Self

import torch
from torch import nn

from deeplab.layers.packed_conv import ENDINGS, PackedConv
from deeplab.native import int8
from deeplab.native.int8 import Range


class Int8Conv(PackedConv):
    """`activation(conv(x))` of float32 images, both rounded to 8 bits inside; there are no gradients."""

    values: Range

    @classmethod
    def on(cls, conv: PackedConv, values: Range) -> Self:
        """The same convolution, without groups, of inputs within `values`."""
        made = cls.of(conv, conv.activation)
        made.values = values
        return made

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._in_bytes(x, self.activation)

    @torch.no_grad()
    def joined(self, x: torch.Tensor, other: torch.Tensor, activation: nn.Module) -> torch.Tensor:
        if type(self.activation) is not nn.Identity:
            return activation(other + self(x))
        return self._in_bytes(x, activation, other.contiguous(memory_format=torch.channels_last))

    def in_bytes(self) -> int8.Packed:
        """The weights as they are now."""
        return self.laid_out((int8,), lambda: int8.pack(self.weight, self.bias, self.values))

    def _in_bytes(
        self, x: torch.Tensor, activation: nn.Module, other: torch.Tensor | None = None
    ) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ending = ENDINGS.get(type(activation))
        packed, place = self.in_bytes(), self.place_of(x)
        if ending is None:
            return activation(int8.int8_conv(x, packed, place, added=other))
        return int8.int8_conv(x, packed, place, ending, other)
