"""A network that blurs edges, a photo with sharp ones, and a model on disk, for the tests of the CRF's commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from deeplab import DeepLab, DeepLabConfig, LabelSpec
from deeplab.config import ASPPConfig, backbone_config

CLASSES = ("background", "red", "blue")


def small_network(classes: tuple[str, ...]) -> DeepLab:
    """The smallest that the command line takes, with new weights."""
    torch.manual_seed(2)
    config = DeepLabConfig(
        backbone=backbone_config("mobilenet_v2", width=0.25),
        context=ASPPConfig(channels=8),
        num_classes=len(classes),
    )
    return DeepLab(config, LabelSpec.named(classes))


def save_model(folder: Path, data: Path) -> Path:
    """A model of CLASSES that sees more than one of them in the photos of `data`."""
    network = small_network(CLASSES).eval()
    photos = [np.array(Image.open(path)) for path in sorted((data / "JPEGImages").iterdir())]
    images = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = network(images)
        gain = 2 / logits.std((0, 2, 3))
        held = dict(network.named_parameters())
        last = [name.removesuffix("bias") for name in held if name.endswith("bias")][-1]
        held[last + "weight"] *= gain[:, None, None, None]
        held[last + "bias"].sub_(logits.mean((0, 2, 3))).mul_(gain)
    network.save_pretrained(folder)
    return folder


class ColourNetwork(nn.Module):
    """Tells red from the rest on a grid of 8 x 8 pixels: right in the middle, blurred at edges."""

    def __init__(self) -> None:
        super().__init__()
        network = small_network(("rest", "red"))
        self.anchor = nn.Parameter(torch.zeros(1))
        self.config, self.labels = network.config, network.labels
        self.eight_bit, self.output_stride = False, 8
        self.resize_logits = network.resize_logits

    def low_resolution_logits(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        red = nn.functional.avg_pool2d(images[:, :1].float(), 8) / 255
        return {"semantic": torch.cat((1 - 2 * red, 2 * red - 1), 1)}


def blob(side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on blue, and which class each pixel is."""
    rows, columns = np.mgrid[:side, :side]
    labels = ((rows - 21) ** 2 + (columns - 26) ** 2 < 14**2).astype(np.uint8)
    return np.where(labels[..., None] == 1, (255, 0, 0), (0, 0, 255)).astype(np.uint8), labels
