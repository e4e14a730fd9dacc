"""Training with what int8 will leave of weights and of what flows between layers (arXiv 1712.05877, section 3).

Every convolution computes with its weights rounded to 7 bits by output channel and its input to 8 bits, as exports to
int8 do (docs/export.md); gradients pass the rounding as if it were not there. Ranges are those of the weights and of
the batch as they are, so that nothing has to be kept beside the weights. Batch norms behind need not be folded into the
weights first, as a factor a channel changes no rounding. In eval mode, and as saved, the model is float.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deeplab.layers.conv import AtrousConv2d

# signed, of weights: processors without VNNI need the eighth bit for their sums
WEIGHT_MOST = 63
INPUT_MOST = 255
SMALLEST_STEP = 1e-8


def fake_quantise(model: nn.Module) -> None:
    """Let all convolutions of `model` compute so in train mode, from now on."""
    for layer in model.modules():
        if isinstance(layer, AtrousConv2d):
            layer.register_forward_pre_hook(_round)
            layer.register_forward_hook(_restore, always_call=True)


def rounded_input(x: torch.Tensor) -> torch.Tensor:
    """[...] at 256 evenly spaced values from its smallest to its largest, 0 among them; float32."""
    x = x.float()
    low, high = (
        side.clamp(**{end: 0.0}) for side, end in zip(x.detach().aminmax(), ("max", "min"), strict=True)
    )
    step = ((high - low) / INPUT_MOST).clamp(min=SMALLEST_STEP)
    zero = (-low / step).round().clamp(0, INPUT_MOST).int()
    return torch.fake_quantize_per_tensor_affine(x, step, zero, 0, INPUT_MOST)


def rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    """[out, ...] at 127 evenly spaced values around 0, from its largest in each output channel; float32."""
    largest = weight.detach().float().flatten(1).abs().amax(1)
    step = (largest / WEIGHT_MOST).clamp(min=SMALLEST_STEP)
    zeros = torch.zeros_like(step, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), step, zeros, 0, -WEIGHT_MOST, WEIGHT_MOST)


def _round(layer: AtrousConv2d, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
    if not layer.training:
        return None
    # in the parameter's own place, as its order among the others is the optimiser's
    layer.__dict__["_float"] = layer.weight
    layer._parameters["weight"] = rounded_weight(layer.weight)  # type: ignore[assignment]  # for this pass
    return (rounded_input(inputs[0]),)


def _restore(layer: AtrousConv2d, inputs: Any, output: Any) -> None:
    if "_float" in layer.__dict__:
        layer._parameters["weight"] = layer.__dict__.pop("_float")
