"""ASPP for inference on the CPU: the image-level feature, the same everywhere, becomes the projection's bias."""

from __future__ import annotations

from typing import Self

import torch

from deeplab.heads.aspp import ASPP, concatenated
from deeplab.layers.packed_conv import PackedConv
from deeplab.layers.packed_separable import packed_part, with_parts_of


class PackedASPP(ASPP):
    """An ASPP of packed convolutions; the same where the image-level feature is none or has to be a map."""

    _projecting: PackedConv | None

    @classmethod
    def of(cls, layer: ASPP) -> Self:
        """Shares its parts with `layer`."""
        made = with_parts_of(layer, cls)
        found = None if layer.projection is None else packed_part(layer.projection)
        # one in 8 bits has a grid for every channel
        made.__dict__["_projecting"] = found if type(found) is PackedConv else None
        return made

    def projected(self, branches: list[torch.Tensor]) -> torch.Tensor:
        first, *others = branches
        # as resizing a map of one place makes it
        repeated = first.stride()[2:] == (0, 0) and first.shape[2:] == branches[-1].shape[2:]
        if self._projecting is not None and others and repeated:
            found = self._projecting.behind_constant(first[:, :, :1, :1], concatenated(others))
            if found is not None:
                return found
        return super().projected(branches)
