"""v3+'s decoder for inference on the CPU: upsampling, concatenation and the first separable convolution in one pass.

The upsampled features are the largest map of a v3+ network, written and read twice for one convolution.
"""

from __future__ import annotations

from typing import Self

import torch

from deeplab.heads.decoder import DecoderStage
from deeplab.layers.packed_separable import PackedSeparableConv, in_one_pass, with_parts_of
from deeplab.layers.view import current_view


class PackedDecoderStage(DecoderStage):
    """A stage of packed convolutions; the same where one pass cannot be."""

    @classmethod
    def of(cls, layer: DecoderStage) -> Self:
        """Shares its parts with `layer`."""
        return with_parts_of(layer, cls)

    def refined(self, x: torch.Tensor, detail: torch.Tensor) -> torch.Tensor:
        first = self.convs[0]
        # shown a window, maps are resized as parts of the whole image's
        chain = first.chain if isinstance(first, PackedSeparableConv) and current_view() is None else None
        found = in_one_pass(detail, chain, behind=(x, self.resize))
        return super().refined(x, detail) if found is None else self.convs[1:](found)
