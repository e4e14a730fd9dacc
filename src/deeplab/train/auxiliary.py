"""An auxiliary head: in training a second, small classifier learns from the middle of the backbone, and is then gone.

Zhao et al., "Pyramid Scene Parsing Network" (arXiv 1612.01105, section 3.3); its layers are those of torchvision's FCN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deeplab.errors import UserError
from deeplab.layers.conv import AtrousConv2d, ConvNormAct
from deeplab.layers.norm import norm_layer
from deeplab.model.network import DeepLab

NARROWER = 4
DROPOUT = 0.1


class AuxiliaryHead(nn.Module):
    """The backbone's coarsest end point, mostly of stride 16, [N, C, h, w], to logits [N, classes, h, w].

    Args:
        model: the backbone's; only what is called here is kept of it.

    Raises:
        UserError: the backbone has no end points, or is not asked for them.
    """

    def __init__(self, model: DeepLab) -> None:
        super().__init__()
        config, found = model.config, model.backbone.low_level_channels
        if not found or config.multi_scale_features is not None:
            what = "multi_scale_features" if found else f"the backbone {config.backbone.name}"
            raise UserError(
                f"loss.auxiliary: with {what} there is no middle to learn from", fix="loss.auxiliary=0"
            )
        self.stride = max(found)
        width = found[self.stride] // NARROWER
        norm = norm_layer(eps=config.head_norm.eps, momentum=config.head_norm.momentum)
        self.layers = nn.Sequential(
            ConvNormAct(found[self.stride], width, kernel=3, norm=norm, activation="relu"),
            nn.Dropout(DROPOUT),
            AtrousConv2d(width, config.num_classes, kernel=1, bias=True),
        )
        self._seen: list[torch.Tensor] = []

    def watch(self, model: DeepLab) -> None:
        """From now on keep the end point of each of the model's passes in train mode, for `logits`; not for copies."""

        def ask(backbone: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x, *wanted = inputs
            return x, {*(wanted[0] if wanted else ()), self.stride}

        def see(
            backbone: nn.Module, inputs: tuple[Any, ...], found: tuple[Any, dict[int, torch.Tensor]]
        ) -> None:
            if backbone.training:
                self._seen.append(found[1][self.stride])

        model.backbone.register_forward_pre_hook(ask)
        model.backbone.register_forward_hook(see)

    def logits(self) -> list[torch.Tensor]:
        """Of the passes since the last call, float32."""
        seen, self._seen = self._seen, []
        return [self.layers(features).float() for features in seen]
