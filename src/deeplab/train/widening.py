"""The first convolution of a network that reads other bands than the one that its weights come from.

The rule: a band takes the weights of the band of its name (red, green and blue where the weights read RGB), any other
the mean over all of them; and all are multiplied by the number of channels that the weights read over the number
that is read now, so that sums keep their scale. timm (`adapt_input_conv`) and segmentation_models.pytorch scale so, and
sum over RGB for one channel, which is the same; they repeat RGB for further channels, where we take the mean.

Weights also expect values of a certain spread: after normalising, photos deviate by ImageNet's deviation over the
model's `std`, and bands whose `std` is measured by 1. Weights are multiplied by the one over the other.
"""

from __future__ import annotations

import torch

from deeplab.config import PixelConfig

IMAGENET_STD = {"red": 58.395, "green": 57.12, "blue": 57.375}


def reads_other_bands(ours: PixelConfig, theirs: PixelConfig) -> bool:
    """Whether weights of a model of `theirs` have to be changed for one of `ours`."""
    return bool(ours.bands or theirs.bands) and ours.names != theirs.names


def widened(weight: torch.Tensor, ours: PixelConfig, theirs: PixelConfig) -> torch.Tensor:
    """[channels, bands of theirs, h, w] to [channels, bands of ours, h, w], see the module."""
    spread = torch.tensor(_spreads(theirs)).to(weight)
    alike = weight * spread.view(1, -1, 1, 1)
    known = {name.lower(): index for index, name in enumerate(theirs.names)}
    found = [known.get(name.lower()) for name in ours.names]
    mean = alike.mean(1)
    planes = [mean if index is None else alike[:, index] for index in found]
    factors = torch.tensor(_spreads(ours)).to(weight)
    scale = len(theirs.names) / len(ours.names)
    return torch.stack(planes, 1) / factors.view(1, -1, 1, 1) * scale


def told(ours: PixelConfig, theirs: PixelConfig) -> str:
    """What `widened` does, in a sentence."""
    here, there = ([name.lower() for name in each.names] for each in (ours, theirs))
    new = [name for name in ours.names if name.lower() not in there]
    dropped = [name for name in theirs.names if name.lower() not in here]
    changes = [f"the mean over all of them for {', '.join(new)}"] if new else []
    # which otherwise count in that mean
    changes += [f"nothing of {', '.join(dropped)}"] if dropped and not new else []
    changes += ["the weights of equal names"] if set(here) & set(there) else []
    return (
        f"the first convolution was trained on {', '.join(theirs.names)} and is to read {', '.join(ours.names)}: "
        f"it takes {' and '.join(changes)}, all times {len(there)}/{len(here)}"
    )


def _spreads(pixels: PixelConfig) -> list[float]:
    """By how much normalised values deviate, by channel."""
    if pixels.bands:
        return [1.0] * len(pixels.bands)
    return [IMAGENET_STD[name] / std for name, std in zip(pixels.names, pixels.std, strict=True)]
