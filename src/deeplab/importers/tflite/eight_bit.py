"""The 8-bit grids of a quantised TensorFlow Lite file, for `deeplab.model.eight_bit`.

Only files whose every value is in 8 bits, and whose operations are exactly those that `EightBit` computes,
have them: a re-quantisation anywhere but before a concatenation would be lost, so it is looked for.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import ValidationError

from deeplab.errors import UserError
from deeplab.importers.tflite.file import Tensor
from deeplab.importers.tflite.layers import Add, Concat, Conv, Layer, Network, Resize, Tail
from deeplab.importers.tflite.walk import STEM, Found
from deeplab.model.eight_bit import EightBit, Grid
from deeplab.model.eight_bit.network import INPUT, POOLING

LOWEST: dict[str, Literal[0, -128]] = {"uint8": 0, "int8": -128}
# beyond these ratios of scales the runtime's fixed-point products are not used
RATIOS = (2.0**-8, 2.0**7)


def eight_bit_of(network: Network, found: Found) -> EightBit:
    """The grids of all values and weights.

    Raises:
        UserError: values that are not in 8 bits, or an operation that is computed otherwise here.
    """
    if network.reordered:
        raise UserError(network.reordered[0])
    if found.pooling and found.pooling.window != network.size(found.features):
        raise UserError("image pooling over windows is not computed in 8 bits here")
    numbers = {INPUT: found.convs[STEM].raw[0], **found.sums, **found.joins}
    numbers |= {path: conv.output for path, conv in found.convs.items()}
    if found.pooling:
        numbers[POOLING] = found.pooling.output
    for layer in network.layers:
        if not isinstance(layer, Tail):
            _check(network, layer)
        if isinstance(layer, Add | Concat):
            _check_ratios(network, layer)
    return EightBit(
        grids={path: _grid(network.tensor(number)) for path, number in numbers.items()},
        weight_scales={path: _weight_scale(network, conv) for path, conv in found.convs.items()},
        rescaled=frozenset(path for path, number in found.joins.items() if _rescales(network, number)),
    )


def _rescales(network: Network, join: int) -> bool:
    layer = next(layer for layer in network.layers if layer.output == join)
    grids = [network.grids[raw] for raw in layer.raw]
    own = _grid(network.tensor(join))
    others = [_grid(network.tensor(raw)) != own for raw in layer.raw]
    if any(others) and (own.low or any(len(grid) > 1 for grid in grids)):
        raise UserError(
            f"operation {layer.op} (CONCAT) joins maps of several grids in a way that is not known"
        )
    return any(others)


def _check(network: Network, layer: Layer) -> None:
    own = _grid(network.tensor(layer.output))
    for raw, source in zip(layer.raw, layer.sources, strict=True):
        # photos may come in another type than the first convolution reads, and a map be brought to the grid of those
        # that it joins; from other changes of grid on, nothing here rounds as the file does
        changes = 0 if source == network.source else len(network.grids[raw]) - 1
        if isinstance(layer, Concat) and _grid(network.tensor(raw)) == own:
            changes -= 1
        kept = not isinstance(layer, Resize) or _grid(network.tensor(source)) == own
        if changes > 0 or not kept:
            kind = type(layer).__name__.upper()
            raise UserError(f"operation {layer.op} ({kind}) re-quantises {network.name(source)}")


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
    if conv.scales is None:
        raise UserError(f"{network.name(conv.stored[0])} is not in 8 bits")
    return torch.from_numpy(conv.scales).float()
