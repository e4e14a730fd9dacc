"""The 8-bit grids of a quantised TensorFlow Lite file, for `deeplab.model.eight_bit`.

Only files whose every value is in 8 bits, and whose operations are exactly those that `EightBit` computes,
have them: a re-quantisation anywhere but before a concatenation would be lost, so it is looked for.
"""

from __future__ import annotations

import torch
from pydantic import ValidationError

from deeplab.errors import UserError
from deeplab.importers.tflite.file import Tensor
from deeplab.importers.tflite.layers import Add, Concat, Conv, Layer, Network, Pool, Resize
from deeplab.importers.tflite.walk import Found
from deeplab.model.eight_bit import EightBit, Grid
from deeplab.model.eight_bit.network import INPUT

LOWEST = {"uint8": 0, "int8": -128}
STEM = "backbone.stem"
# beyond these ratios of scales the runtime's fixed-point products are not used
RATIOS = (2.0**-8, 2.0**7)


def eight_bit_of(network: Network, found: Found) -> EightBit:
    """The grids of all values and weights.

    Raises:
        UserError: values that are not in 8 bits, or an operation that is computed otherwise here.
    """
    if found.pooling and found.pooling.window != network.size(found.features):
        raise UserError("image pooling over windows is not computed in 8 bits here")
    pixels = network.graph.ops[found.convs[STEM].op].inputs[0]
    numbers = {INPUT: pixels, **found.sums, **found.joins}
    numbers |= {path: conv.output for path, conv in found.convs.items()}
    for layer in network.layers:
        if isinstance(layer, Add | Conv | Pool | Resize):
            _check(network, layer)
        if isinstance(layer, Add | Concat):
            _check_ratios(network, layer)
    return EightBit(
        grids={path: _grid(network.tensor(number)) for path, number in numbers.items()},
        weight_scales={path: _weight_scale(network, conv) for path, conv in found.convs.items()},
    )


def _check(network: Network, layer: Layer) -> None:
    op = network.graph.ops[layer.op]
    # photos may come in another type than the first convolution reads
    pairs = [pair for pair in zip(op.inputs, layer.sources, strict=False) if pair[1] != network.source]
    pairs.append((op.outputs[0], layer.output))
    if isinstance(layer, Pool | Resize):
        pairs.append((layer.output, layer.sources[0]))
    for stored, known in pairs:
        if _grid(network.tensor(stored)) != _grid(network.tensor(known)):
            raise UserError(
                f"operation {op.number} ({op.kind}) re-quantises {network.tensor(known).name.split(';')[0]}"
            )


def _check_ratios(network: Network, layer: Layer) -> None:
    scale = _grid(network.tensor(layer.output)).scale
    for source in layer.sources:
        ratio = _grid(network.tensor(source)).scale / scale
        if not RATIOS[0] <= ratio <= RATIOS[1]:
            raise UserError(f"operation {layer.op} joins maps whose scales are {ratio:.3g} times its own")


def _grid(tensor: Tensor) -> Grid:
    stored = tensor.quantisation
    if tensor.dtype not in LOWEST or stored is None or len(stored.scale) != 1:
        raise UserError(f"{tensor.name.split(';')[0]} ({tensor.dtype}) is not in 8 bits with one scale")
    try:
        return Grid(
            scale=float(stored.scale[0]), zero_point=int(stored.zero_point[0]), low=LOWEST[tensor.dtype]
        )
    except ValidationError as error:
        raise UserError(f"{tensor.name.split(';')[0]}: {error.errors()[0]['msg']}") from None


def _weight_scale(network: Network, conv: Conv) -> torch.Tensor:
    weight = network.tensor(conv.weight)
    if weight.dtype not in LOWEST or weight.quantisation is None:
        raise UserError(f"{weight.name.split(';')[0]} ({weight.dtype}) is not in 8 bits")
    return torch.from_numpy(weight.quantisation.scale).float()
