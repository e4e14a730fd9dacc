"""Backbones out of ONNX files of classification networks, by the order of their convolutions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from deeplab.errors import UserError
from deeplab.importers.onnx.file import read_convolutions
from deeplab.layers.conv import AtrousConv2d


def load_vgg16(backbone: nn.Module, path: Path) -> int:
    """Fill a VGG-16 backbone; layers behind the convolutions stay unused.

    Args:
        backbone: `deeplab.backbones.vgg.VGG16`.
        path: an ONNX file of VGG-16 without batch norm.

    Returns:
        the number of layers filled.

    Raises:
        UserError: another number of convolutions, or of other shapes, in the file or in the backbone.
    """
    found = read_convolutions(path)
    convs = [module for module in backbone.modules() if isinstance(module, AtrousConv2d)]
    expected = [tuple(conv.weight.shape) for conv in convs if conv.bias is not None]
    if [conv.weight.shape for conv in found if conv.bias is not None] != expected or len(found) != len(convs):
        raise UserError(
            f"holds {len(found)} convolutions that are not the {len(convs)} of this backbone; it "
            "fills a vgg16 of 3 input channels",
            file=path,
        )
    with torch.no_grad():
        for conv, values in zip(convs, found, strict=True):
            conv.weight.copy_(torch.from_numpy(np.array(values.weight)))
            conv.bias.copy_(torch.from_numpy(np.array(values.bias)))
    return len(convs)
