"""What passes, strips and windows ask of a network, whoever computes it."""

from __future__ import annotations

from typing import Protocol

import torch

from deeplab.config import DeepLabConfig
from deeplab.model.network import Logits


class Network(Protocol):
    """Photos in, logits on the network's own grid out; a `DeepLab` is one, and so is what a runtime computes."""

    config: DeepLabConfig

    @property
    def eight_bit(self) -> bool:
        """See `DeepLab.eight_bit`."""

    def low_resolution_logits(self, images: torch.Tensor) -> Logits:
        """See `DeepLab.low_resolution_logits`."""

    def scaled_logits(self, images: torch.Tensor, scale: float) -> Logits:
        """See `DeepLab.scaled_logits`."""

    def resize_logits(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """See `DeepLab.resize_logits`."""
