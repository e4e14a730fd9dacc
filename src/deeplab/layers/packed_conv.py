"""A convolution for inference on the CPU: weights laid out once, the activation inside.

`torch.nn.functional.conv2d` rearranges weights at every call, and its activation is a second pass over memory. Where
our own kernel does not win, the operators are those that PyTorch's own compiler generates calls to; their weights are
laid out for the very size of the input, as oneDNN would lay out others anew at every call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Self, TypeVar

import torch
from torch import nn

from deeplab.layers.activations import Clip6
from deeplab.layers.conv import AtrousConv2d
from deeplab.native import dense_conv, depthwise, winograd
from deeplab.native.winograd import Ending

# what oneDNN calls them, and the bounds that it wants to know
FUSED: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    Clip6: ("hardtanh", [-6.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
    nn.Sigmoid: ("sigmoid", []),
}
# those that our own kernels know
ENDINGS: dict[type[nn.Module], Ending] = {
    nn.Identity: Ending(),
    nn.ReLU: Ending(least=0.0),
    nn.ReLU6: Ending(least=0.0, most=6.0),
    Clip6: Ending(least=-6.0, most=6.0),
    nn.Hardswish: Ending(swish=True),
}
DTYPES = (torch.float32, torch.bfloat16)
T = TypeVar("T")


class PackedConv(AtrousConv2d):
    """`activation(conv(x))`, up to the order of sums; the plain way where gradients are wanted or on other devices.

    Shares its parameters with `conv`, and may change stride, rate, dtype and weights at any time.
    """

    activation: nn.Module
    _packed: tuple[tuple[object, ...], Any] | None

    @classmethod
    def of(cls, conv: AtrousConv2d, activation: nn.Module) -> Self:
        """The packed form of `conv` followed by `activation`, whose type is one of `FUSED`."""
        packed = cls.__new__(cls)
        nn.Module.__init__(packed)
        packed.__dict__.update(
            {name: value for name, value in vars(conv).items() if name not in vars(packed)}
        )
        packed.weight, packed.bias = conv.weight, conv.bias
        packed.activation = activation
        packed._packed = None
        return packed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.can_run(x):
            return self.activation(super().forward(x))
        x = x.contiguous(memory_format=torch.channels_last)
        if self.groups > 1:
            pads = self._pads(x.shape[-2], x.shape[-1])
            weight = self.weight.float()
            if depthwise.wins(x, weight, stride=self.stride, rate=self.dilation, dtype=x.dtype):
                bias = None if self.bias is None else self.bias.float()
                found = depthwise.depthwise_conv(
                    x, weight, bias, stride=self.stride, rate=self.dilation, pads=pads
                )
                return self.activation(found)
        elif dense_conv.wins_packed(x, self.weight, stride=self.stride, rate=self.dilation):
            return self._by_own_kernel(x, self.activation)
        return self._by_onednn(x, self.activation)

    def joined(self, x: torch.Tensor, other: torch.Tensor, activation: nn.Module) -> torch.Tensor:
        fits = (
            self.can_run(x)
            and self.groups == 1
            and type(self.activation) is nn.Identity
            and type(activation) in (nn.Identity, nn.ReLU)
            and x.dtype == other.dtype
            and type(other) is torch.Tensor
            and other.is_contiguous(memory_format=torch.channels_last)
        )
        if not fits:
            return super().joined(x, other, activation)
        x = x.contiguous(memory_format=torch.channels_last)
        if dense_conv.wins_packed(x, self.weight, stride=self.stride, rate=self.dilation):
            return self._by_own_kernel(x, activation, other)
        return self._by_onednn(x, activation, other)

    def behind_constant(self, constant: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """The convolution of x [1, C, H, W] behind channels [1, D, 1, 1] that are the same everywhere.

        None where it is not a 1x1 convolution, or our own kernel does not win.
        """
        count, ending = constant.shape[1], ENDINGS.get(type(self.activation))
        rest = self.weight[:, count:]
        fits = (
            self.can_run(x)
            and len(x) == 1
            and self.groups == 1
            and self.kernel_size == (1, 1)
            and ending is not None
            and x.is_contiguous(memory_format=torch.channels_last)
            and dense_conv.wins_packed(x, rest, stride=self.stride, rate=self.dilation)
        )
        if not fits or ending is None:
            return None
        front, packed = self.laid_out(
            (dense_conv, count),
            lambda: (self.weight[:, :count, 0, 0].detach().float(), dense_conv.pack(rest, self.bias)),
        )
        biases = packed.bias.clone()
        # not a matrix product, whose sums depend on the number of threads
        biases[: packed.outputs] += (front * constant[0, :, 0, 0].float()).sum(1)
        return dense_conv.packed_conv(x, packed._replace(bias=biases), self.place_of(x), ending)

    def _by_own_kernel(
        self, x: torch.Tensor, activation: nn.Module, other: torch.Tensor | None = None
    ) -> torch.Tensor:
        place = self.place_of(x)
        by_winograd = x.dtype == torch.float32 and winograd.suits(x, self.weight, **place._asdict())
        kernel = winograd if by_winograd else dense_conv
        packed = self.laid_out((kernel,), lambda: kernel.pack(self.weight, self.bias))
        ending = ENDINGS.get(type(activation))
        if ending is None:
            return activation(dense_conv.packed_conv(x, packed, place, added=other))
        return dense_conv.packed_conv(x, packed, place, ending, other)

    def _by_onednn(
        self, x: torch.Tensor, activation: nn.Module, other: torch.Tensor | None = None
    ) -> torch.Tensor:
        rows, columns = self._pads(x.shape[-2], x.shape[-1])
        padding = [rows[0], columns[0]]
        if rows[0] != rows[1] or columns[0] != columns[1]:
            x = nn.functional.pad(x, (*columns, *rows))
            padding = [0, 0]
        name, bounds = FUSED[type(activation)]
        place = (padding, self.stride, self.dilation, self.groups)
        size = list(x.shape)
        weight = self.laid_out(
            (*size, *padding, self.stride, self.dilation),
            lambda: torch.ops.mkldnn._reorder_convolution_weight(self.weight.detach(), *place, size),
        )
        convolve = torch.ops.mkldnn._convolution_pointwise
        if other is None:
            return convolve(x, weight, self.bias, *place, name, bounds, "")
        behind = None if name == "none" else name
        return convolve.binary(x, other, weight, self.bias, *place, "add", None, behind, bounds, "")

    def laid_out(self, place: tuple[object, ...], lay_out: Callable[[], T]) -> T:
        """What `lay_out` makes of the weights as they are now, kept for a place."""
        key = (*place, *self.state())
        # one look at what is kept: another thread may put its own there at any time
        kept = self._packed
        if kept is None or kept[0] != key:
            kept = self._packed = (key, lay_out())
        return kept[1]

    def state(self) -> tuple[object, ...]:
        """What changes whenever the weights do."""
        weight, bias = self.weight, self.bias
        key = (weight.dtype, weight.data_ptr(), weight._version)
        return key if bias is None else (*key, bias.data_ptr(), bias._version)

    def can_run(self, x: torch.Tensor) -> bool:
        """Whether packed weights may be used for x at all."""
        return (
            x.device.type == "cpu"
            and x.dtype in DTYPES
            and (x.dtype == torch.float32 or _has_bfloat16())
            and x.dtype == self.weight.dtype
            and x.dim() == 4
            and x.numel() > 0
            and type(x) is torch.Tensor
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and torch.backends.mkldnn.is_available()
            and bool(torch.backends.mkldnn.enabled)
        )

    def __getstate__(self) -> dict[str, object]:
        # weights in oneDNN's layout can neither be copied nor stored
        return {**vars(self), "_packed": None}


class PassedConv(PackedConv):
    """In the place of a convolution that another layer has taken for its own end: what comes in goes out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@cache
def _has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
