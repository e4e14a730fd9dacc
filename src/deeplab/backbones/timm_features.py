"""Any timm backbone that gives features at an output stride, by name: `timm:<name>` (extra `timm`).

timm decides strides and rates while it builds, so another output stride means another module. Its parameters
are the same in number, name and shape, and they are handed over, not copied: an optimiser keeps its hold.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import nn

from deeplab.backbones.base import Backbone, Features
from deeplab.config import TimmConfig
from deeplab.errors import UserError, require

NOMINAL_STRIDE = 32
END_POINTS = (4, 8, 16)
# lasts as long as the process, see `_timm`
TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")


class TimmFeatures(Backbone):
    """timm's `features_only` network: [N, in_channels, H, W] -> [N, out_channels, ~H / OS, ~W / OS].

    End points at 4, 8, 16 are timm's feature maps of those reductions. Padding, norms and where rates begin
    to grow are timm's. Weights start random; hooks on the network do not survive another output stride.

    Raises:
        UserError: timm cannot be imported, does not know the name, or has no dilated features for it; or norms
            should be folded, which are timm's own.
    """

    def __init__(self, config: TimmConfig, *, folded: bool = False) -> None:
        super().__init__()
        if folded:
            raise UserError(f"folded: {config.name} keeps timm's own norms; set folded to false")
        self.name = config.name.removeprefix("timm:")
        self.in_channels = config.in_channels
        self.output_stride = NOMINAL_STRIDE
        self.network = self._create(NOMINAL_STRIDE)
        info: Any = self.network.feature_info
        reductions, channels = info.reduction(), info.channels()
        self.out_channels = channels[-1]
        self.end_points = {stride: reductions.index(stride) for stride in END_POINTS if stride in reductions}
        self.low_level_channels = {stride: channels[index] for stride, index in self.end_points.items()}

    def set_output_stride(self, output_stride: int) -> None:
        """Change the output stride; parameters and buffers stay the same objects.

        Raises:
            UserError: timm does not offer it for this backbone; most have 8, 16 and 32.
        """
        if output_stride == self.output_stride:
            return
        with torch.device("meta"):
            network = self._create(output_stride)
        _hand_over(self.network, network)
        self.network = network
        self.output_stride = output_stride

    def _create(self, output_stride: int) -> nn.Module:
        timm = _timm()
        try:
            network = timm.create_model(
                self.name, features_only=True, output_stride=output_stride, in_chans=self.in_channels
            )
        except Exception as error:
            # timm refuses with whatever its constructors raise: AssertionError, TypeError, RuntimeError
            raise UserError(
                f"backbone timm:{self.name}: timm has no features at output stride {output_stride} for it "
                f"({type(error).__name__}: {error}); most of its convolutional backbones have 8, 16 and 32"
            ) from error
        reached = network.feature_info.reduction()[-1]
        if reached != output_stride:
            raise UserError(
                f"backbone timm:{self.name}: its features end at stride {reached}, not at {output_stride}; "
                "choose another output stride or backbone"
            )
        return network

    def forward(self, x: torch.Tensor, low_level: Collection[int] = ()) -> Features:
        maps = self.network(x)
        return maps[-1], {stride: maps[self.end_points[stride]] for stride in low_level}


def _hand_over(old: nn.Module, new: nn.Module) -> None:
    new.load_state_dict(old.state_dict(keep_vars=True), assign=True)
    modes = {name: module.training for name, module in old.named_modules()}
    kept = new.state_dict().keys()
    buffers = dict(old.named_buffers())
    for name, module in new.named_modules():
        module.training = modes[name]
        for key in module._buffers:
            path = f"{name}.{key}".lstrip(".")
            if path not in kept:
                module._buffers[key] = buffers[path]


def _timm() -> ModuleType:
    """timm, which imports torchvision for nothing that these networks need.

    From the public index torchvision comes for CUDA. Beside torch's CPU build its compiled half does not load, and the
    rest asks for the names of two operators alone.
    """
    try:
        import_module("torchvision")
    except ImportError:
        pass
    except RuntimeError:
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                TORCHVISION.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return require("timm", extra="timm")
