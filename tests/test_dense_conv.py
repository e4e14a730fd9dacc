"""Weights' gradients by matrix products: those of float64, whatever the stride, padding, rate and kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deeplab.layers import dense_conv
from deeplab.layers.conv import AtrousConv2d

torch.set_num_threads(1)


# out, in, kernel, stride, rate, height, width; maps narrower and wider than what one product takes
CASES = {
    "3x3": (32, 16, 3, 1, 1, 9, 7),
    "rate": (33, 17, 3, 1, (2, 3), 12, 40),
    "stride on even sizes": (40, 16, 3, 2, 1, 10, 14),
    "wide": (32, 16, 3, 1, 1, 3, 700),
    "many rows": (32, 16, 3, 1, 1, 70, 33),
    "7x7 with stride": (32, 16, 7, 2, 1, 21, 20),
    "1x1": (256, 256, 1, 1, 1, 5, 6),
}


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


@pytest.mark.parametrize("rule", ["same", "symmetric"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_float64(
    case: str, rule: str, avx2: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, channels, kernel, stride, rate, height, width = CASES[case]
    torch.manual_seed(0)
    layer = AtrousConv2d(
        channels, outputs, kernel=kernel, stride=stride, rate=rate, bias=True, padding_rule=rule
    )
    x = torch.randn(2, channels, height, width).contiguous(memory_format=torch.channels_last)
    wanted = torch.randn_like(layer(x))
    taken = []
    plain = dense_conv.weight_gradient
    monkeypatch.setattr(dense_conv, "weight_gradient", lambda *of: taken.append(1) or plain(*of))
    found = _gradients(layer, x, wanted)
    assert taken
    monkeypatch.setattr(dense_conv, "wins", lambda *of, **how: False)
    expected = _gradients(layer.double(), x.double(), wanted.double())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5 * other.abs().max().item())


def _gradients(layer: AtrousConv2d, x: torch.Tensor, wanted: torch.Tensor) -> list[torch.Tensor]:
    layer.zero_grad()
    x = x.clone().requires_grad_()
    (layer(x) * wanted).sum().backward()
    return [x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()]


def test_elsewhere_the_plain_convolution_runs(avx2: None, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.zeros(32, 16, 3, 3, requires_grad=True)
    x = torch.zeros(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    place = {"stride": (1, 1), "groups": 1}
    assert dense_conv.wins(x, weight, **place)
    assert not dense_conv.wins(x, weight.detach(), **place)
    assert not dense_conv.wins(x.contiguous(), weight, **place)
    assert not dense_conv.wins(x, weight[:31], **place)
    assert not dense_conv.wins(x, weight[..., :1, :1], **place)
    assert not dense_conv.wins(x.bfloat16(), weight, **place)
    with torch.no_grad():
        assert not dense_conv.wins(x, weight, **place)
    with torch.autocast("cpu", torch.bfloat16):
        assert not dense_conv.wins(x, weight, **place)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not dense_conv.wins(x, weight, **place)


def test_a_model_trains_on_it_like_on_the_plain_one(avx2: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image needs no gradient, frozen weights need none."""
    first, second = (AtrousConv2d(32, 32, kernel=3).to(memory_format=torch.channels_last) for _ in "ab")
    x = torch.randn(2, 32, 9, 9).contiguous(memory_format=torch.channels_last)
    first.weight.requires_grad_(False)
    second(first(x)).square().sum().backward()
    assert first.weight.grad is None
    found = second.weight.grad.clone()
    second.weight.grad = None
    F.conv2d(first(x), second.weight, padding=1).square().sum().backward()
    torch.testing.assert_close(found, second.weight.grad, rtol=1e-5, atol=1e-4)
