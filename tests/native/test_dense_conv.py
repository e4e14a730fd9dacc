"""Dense convolutions by our own kernel: values and gradients of float64, for any stride, padding, rate and kernel."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deeplab.layers.conv import AtrousConv2d
from deeplab.layers.packed_conv import PackedConv
from deeplab.native import dense_conv, winograd

torch.set_num_threads(1)


# out, in, kernel, stride, rate, height, width: whole and partial panels of outputs, vectors and tiles,
# depths within one part and in several, sums few enough for bands and too many
CASES = {
    "3x3": (32, 16, 3, 1, 1, 9, 8),
    "rate": (33, 17, 3, 1, (2, 3), 12, 40),
    "rate beyond the map": (16, 16, 3, 1, 12, 9, 8),
    "stride on even sizes": (40, 16, 3, 2, 1, 16, 18),
    "wide": (32, 17, 3, 1, 1, 3, 700),
    "many taps and bands": (24, 20, 7, 2, 1, 71, 66),
    "deep": (18, 600, 3, 1, 1, 9, 10),
    "many sums": (150, 320, 3, 1, 1, 8, 9),
    "1x1": (256, 256, 1, 1, 1, 9, 8),
    "1x1 narrow": (16, 24, 1, 1, 1, 33, 33),
    "1x1 with stride": (24, 40, 1, 2, 1, 21, 20),
    "few weights": (16, 16, 1, 1, 1, 9, 8),
}
# of the same, those for Winograd's way: squares that reach beyond the map and many of them, half a panel of outputs,
# several groups of outputs, depths in several parts
WINOGRAD = {
    "3x3": (32, 16, 3, 1, 1, 16, 19),
    "rates": (48, 16, 3, 1, (2, 3), 33, 34),
    "many squares": (16, 32, 3, 1, 1, 70, 69),
    "deep and wide": (144, 528, 3, 1, 1, 15, 16),
}


@pytest.fixture(autouse=True)
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    if dense_conv.KERNEL.why_not:
        pytest.skip("no C++ compiler")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def _channels_last(*shape: int) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rule", ["same", "symmetric"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_float64(case: str, rule: str) -> None:
    _compare_with_float64(*CASES[case], rule=rule, by_winograd=False)


@pytest.mark.parametrize("rule", ["same", "none"])
@pytest.mark.parametrize("case", WINOGRAD)
def test_values_and_gradients_by_winograd_are_those_of_float64(case: str, rule: str) -> None:
    _compare_with_float64(*WINOGRAD[case], rule=rule, by_winograd=True)


def _compare_with_float64(
    outputs: int,
    channels: int,
    kernel: int,
    stride: int,
    rate: int | tuple[int, int],
    height: int,
    width: int,
    *,
    rule: str,
    by_winograd: bool,
) -> None:
    torch.manual_seed(0)
    layer = AtrousConv2d(
        channels, outputs, kernel=kernel, stride=stride, rate=rate, bias=True, padding_rule=rule
    )
    x = _channels_last(2, channels, height, width)
    assert dense_conv.wins(x, layer.weight, stride=layer.stride)
    assert winograd.suits(x, layer.weight, **layer.place_of(x)._asdict()) == by_winograd
    wanted = torch.randn_like(layer(x))
    found = _all_of(layer, x, wanted)
    expected = _all_of(layer.double(), x.double(), wanted.double())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5 * other.abs().max().item())


def _all_of(layer: AtrousConv2d, x: torch.Tensor, wanted: torch.Tensor) -> list[torch.Tensor]:
    layer.zero_grad()
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * wanted).sum().backward()
    return [y.detach(), x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()]


@pytest.mark.parametrize("channels", [40, 48], ids=["directly", "by Winograd"])
def test_results_do_not_depend_on_the_number_of_threads(channels: int) -> None:
    torch.manual_seed(0)
    layer = AtrousConv2d(channels, 80, kernel=3, bias=True)
    x = _channels_last(2, channels, 33, 33)
    wanted = torch.randn_like(layer(x))
    alone = _all_of(layer, x, wanted)
    torch.set_num_threads(3)
    try:
        together = _all_of(layer, x, wanted)
    finally:
        torch.set_num_threads(1)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("channels", [20, 32], ids=["directly", "by Winograd"])
def test_weights_are_read_in_any_memory_layout(channels: int) -> None:
    weight, x = torch.randn(16, channels, 3, 3), _channels_last(1, channels, 24, 24)
    place = dense_conv.Place((1, 1), (1, 1), ((1, 1), (1, 1)))
    expected = dense_conv.dense_conv(x, weight, None, place)
    for other in (
        weight.contiguous(memory_format=torch.channels_last),
        weight.transpose(2, 3).contiguous().transpose(2, 3),
        weight.transpose(0, 1).contiguous().transpose(0, 1),
    ):
        assert torch.equal(dense_conv.dense_conv(x, other, None, place), expected)


def test_elsewhere_the_plain_convolution_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = torch.zeros(32, 16, 3, 3, requires_grad=True), _channels_last(1, 16, 8, 8)
    assert dense_conv.wins(x, weight, stride=(1, 1))
    assert not dense_conv.wins(x, weight, stride=(2, 2))
    assert not dense_conv.wins(x.contiguous(), weight, stride=(1, 1))
    assert not dense_conv.wins(x, weight[:15], stride=(1, 1))
    assert not dense_conv.wins(x.bfloat16(), weight, stride=(1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert not dense_conv.wins(x, weight, stride=(1, 1))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert dense_conv.wins(x, weight, stride=(1, 1))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not dense_conv.wins(x, weight, stride=(1, 1))


def test_winograd_only_where_it_saves_products() -> None:
    weight, x, pads = torch.zeros(32, 32, 3, 3), _channels_last(1, 32, 33, 33), ((1, 1), (1, 1))
    assert winograd.suits(x, weight, stride=(1, 1), rate=(1, 1), pads=pads)
    assert not winograd.suits(x, weight, stride=(2, 2), rate=(1, 1), pads=pads)
    assert not winograd.suits(x, weight, stride=(1, 1), rate=(12, 12), pads=((12, 12), (12, 12)))
    assert not winograd.suits(x[:, :, :16, :16], weight, stride=(1, 1), rate=(1, 1), pads=pads)
    assert not winograd.suits(x, weight[:24], stride=(1, 1), rate=(1, 1), pads=pads)
    assert not winograd.suits(x, weight[..., :1, :1], stride=(1, 1), rate=(1, 1), pads=((0, 0), (0, 0)))


def test_other_channels_than_the_weights_are_an_error() -> None:
    layer = AtrousConv2d(32, 32, kernel=3)
    for conv in (layer, PackedConv.of(layer, nn.ReLU())):
        with torch.no_grad(), pytest.raises(RuntimeError, match=r"channels|convolution"):
            conv(_channels_last(1, 16, 9, 9))


def test_frozen_weights_and_images_without_gradient() -> None:
    first, second = (AtrousConv2d(32, 32, kernel=3).to(memory_format=torch.channels_last) for _ in "ab")
    x = _channels_last(2, 32, 9, 9)
    first.weight.requires_grad_(False)
    second(first(x)).square().sum().backward()
    assert first.weight.grad is None
    found = second.weight.grad.clone()
    second.weight.grad = None
    F.conv2d(first(x), second.weight, padding=1).square().sum().backward()
    torch.testing.assert_close(found, second.weight.grad, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.Hardswish()])
@torch.no_grad()
def test_packed_convolutions_bound_values_and_follow_their_weights(activation: nn.Module) -> None:
    torch.manual_seed(0)
    conv = AtrousConv2d(40, 21, kernel=1, bias=True)
    packed = PackedConv.of(conv, activation)
    for size in (9, 12):
        x = 6 * _channels_last(1, 40, size, size)
        torch.testing.assert_close(packed(x), activation(F.conv2d(x, conv.weight, conv.bias)))
    conv.bias.add_(1)
    torch.testing.assert_close(packed(x), activation(F.conv2d(x, conv.weight, conv.bias)))
    x[0, 0, 3, 4] = math.nan
    assert packed(x)[0, :, 3, 4].isnan().all()


@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.Hardswish()])
@torch.no_grad()
def test_packed_convolutions_by_winograd_bound_values_and_follow_their_weights(activation: nn.Module) -> None:
    torch.manual_seed(0)
    conv = AtrousConv2d(32, 48, kernel=3, bias=True)
    packed = PackedConv.of(conv, activation)
    # the last is too small for it
    for size in (24, 33, 9):
        x = 6 * _channels_last(1, 32, size, size)
        expected = activation(F.conv2d(x, conv.weight, conv.bias, padding=1))
        torch.testing.assert_close(packed(x), expected, rtol=1e-5, atol=2e-5)
    x = _channels_last(1, 32, 24, 24)
    conv.bias.add_(1)
    expected = activation(F.conv2d(x, conv.weight, conv.bias, padding=1))
    torch.testing.assert_close(packed(x), expected, rtol=1e-5, atol=1e-5)
    x[0, 0, 9, 10] = math.nan
    nan = packed(x).isnan().any(1)[0]
    assert nan[8:11, 9:12].all() and not nan[:8].any() and not nan[12:].any()


# whole panels, one vector, a rest; by Winograd; by oneDNN, which takes narrow ones
@pytest.mark.parametrize("shape", [(64, 48, 1), (64, 24, 1), (40, 21, 3), (32, 48, 3), (12, 10, 3)])
@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU()])
@torch.no_grad()
def test_what_is_joined_is_added_before_the_activation(
    shape: tuple[int, int, int], activation: nn.Module
) -> None:
    torch.manual_seed(0)
    channels, outputs, kernel = shape
    conv = AtrousConv2d(channels, outputs, kernel=kernel, bias=True)
    packed = PackedConv.of(conv, nn.Identity())
    x, other = _channels_last(2, channels, 21, 22), _channels_last(2, outputs, 21, 22)
    before = other.clone()
    expected = activation(other + F.conv2d(x, conv.weight, conv.bias, padding=kernel // 2))
    torch.testing.assert_close(packed.joined(x, other, activation), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        packed.joined(x, other.contiguous(), activation), expected, rtol=1e-5, atol=1e-5
    )
    assert torch.equal(other, before)
    with pytest.raises(RuntimeError):
        packed.joined(x, other[:, :, :20], activation)


# out, in, kernel, stride, rate: a classifier's odd outputs, and what is many channels
HALVES = {
    "odd": (21, 48, 1, 1, 1),
    "odd and at a rate": (150, 48, 3, 1, 2),
    "1x1": (64, 256, 1, 1, 1),
    "3x3": (48, 128, 3, 1, 1),
    "3x3 with stride": (64, 130, 3, 2, 1),
    "deep": (16, 2100, 1, 1, 1),
}


@pytest.mark.parametrize("case", HALVES)
@pytest.mark.parametrize("joined", [False, True])
@torch.no_grad()
def test_sums_of_bfloat16_are_rounded_once(case: str, joined: bool) -> None:
    torch.manual_seed(0)
    outputs, channels, kernel, stride, rate = HALVES[case]
    x = _channels_last(1, channels, 21, 20).bfloat16()
    if not dense_conv.can_run_halves(x):
        pytest.skip("no instructions for bfloat16, or oneDNN's are better")
    layer = AtrousConv2d(channels, outputs, kernel=kernel, stride=stride, rate=rate, bias=True).bfloat16()
    assert dense_conv.wins_packed(x, layer.weight, stride=layer.stride, rate=layer.dilation)
    packed = PackedConv.of(layer, nn.Identity())
    other = _channels_last(*layer(x).shape).bfloat16()
    found = packed.joined(x, other, nn.ReLU()) if joined else packed(x)
    expected = layer.double()(x.double())
    expected = torch.relu(expected + other.double()) if joined else expected
    # half of the last of 8 bits, and the sums' own rounding
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-5 * expected.abs().max().item())


def test_in_bfloat16_onednn_keeps_what_it_does_as_fast() -> None:
    def wins(outputs: int, channels: int, kernel: int, rate: int) -> bool:
        x = _channels_last(1, channels, 21, 20).bfloat16()
        weight = torch.zeros(outputs, channels, kernel, kernel).bfloat16()
        return dense_conv.wins_packed(x, weight, stride=(1, 1), rate=(rate, rate))

    assert not wins(64, 48, 1, 1)
    assert not wins(64, 256, 3, 2)
    assert not wins(21, 47, 1, 1)
    x = _channels_last(1, 48, 21, 20).bfloat16()
    assert not dense_conv.wins(x, torch.zeros(21, 48, 1, 1), stride=(1, 1))
