"""The depthwise kernel against PyTorch's convolution in float64: values, gradients, and when it is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from deeplab.layers.conv import AtrousConv2d
from deeplab.native import depthwise

# channels, height, width, kernel, stride, rate, pads
CASES = {
    "atrous": (32, 9, 11, 3, (1, 1), (2, 2), ((2, 2), (2, 2))),
    "rate beyond the map": (16, 5, 7, 3, (1, 1), (12, 12), ((12, 12), (12, 12))),
    "stride on an even size": (24, 8, 10, 3, (2, 2), (1, 1), ((0, 1), (0, 1))),
    "odd channels": (21, 7, 20, 3, (1, 1), (3, 3), ((3, 3), (3, 3))),
    "few channels": (3, 6, 6, 3, (2, 2), (1, 1), ((1, 1), (1, 1))),
    "kernel of five": (40, 9, 12, 5, (1, 1), (2, 2), ((4, 4), (4, 4))),
    "two rates": (16, 9, 30, 3, (1, 1), (1, 6), ((1, 1), (6, 6))),
    "no padding": (16, 9, 30, 3, (2, 1), (2, 1), ((0, 0), (0, 0))),
}
# of the largest value: float32 sums of up to 600 terms, and bfloat16's rounding of 8 bits
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 6e-3}


@pytest.fixture(autouse=True)
def compiled() -> None:
    if depthwise.KERNEL.why_not:
        pytest.skip("the kernel cannot be compiled here")


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPLAB_KERNELS", "plain")
    monkeypatch.setattr(depthwise, "KERNEL", replace(depthwise.KERNEL))


def far(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients(case: tuple, dtype: torch.dtype) -> None:
    channels, height, width, kernel, stride, rate, pads = case
    torch.manual_seed(0)
    x = torch.randn(2, channels, height, width).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(channels, 1, kernel, kernel), torch.randn(channels)
    leaves = [value.clone().requires_grad_() for value in (x, weight, bias)]
    found = depthwise.depthwise_conv(*leaves, stride=stride, rate=rate, pads=pads)
    exact = [value.detach().double().requires_grad_() for value in leaves]
    padded = F.pad(exact[0], (*pads[1], *pads[0]))
    wanted = F.conv2d(padded, exact[1], exact[2], stride, 0, rate, channels)
    slope = torch.randn(wanted.shape).to(dtype)
    found.backward(slope)
    wanted.backward(slope.double())
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    assert far(found.detach(), wanted.detach()) < TOLERANCE[dtype]
    assert far(leaves[0].grad, exact[0].grad) < TOLERANCE[dtype]
    # sums are kept in float32 whatever the images are
    assert far(leaves[1].grad, exact[1].grad) < 2e-6
    assert far(leaves[2].grad, exact[2].grad) < 2e-6


def test_threads_do_not_change_a_bit() -> None:
    x = torch.randn(3, 48, 17, 19).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(48, 1, 3, 3)
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        leaves = [value.clone().requires_grad_() for value in (x, weight)]
        found = depthwise.depthwise_conv(*leaves, None, stride=(1, 1), rate=(2, 2), pads=((2, 2), (2, 2)))
        found.square().sum().backward()
        results.append([found.detach(), *(leaf.grad for leaf in leaves)])
    torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_not_a_number_stays_one() -> None:
    x = torch.full((1, 16, 4, 4), float("nan"), dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    found = depthwise.depthwise_conv(
        x, torch.ones(16, 1, 3, 3), None, stride=(1, 1), rate=(2, 2), pads=((2, 2),) * 2
    )
    assert found.isnan().all()


def _gradient_in_bfloat16(layer: AtrousConv2d, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    found.backward(slope.to(found.dtype))
    return layer.weight.grad


def _atrous_case() -> tuple[AtrousConv2d, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer, an image, a slope, and the true gradient of the weights."""
    torch.manual_seed(0)
    layer = AtrousConv2d(64, 64, kernel=3, rate=6, groups=64)
    x, slope = (
        torch.randn(1, 64, 20, 20).bfloat16().float().contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    weight = layer.weight.detach().double().requires_grad_()
    F.conv2d(x.double(), weight, None, 1, 6, 6, 64).backward(slope.double())
    return layer, x, slope, weight.grad


def test_one_photo_in_bfloat16_has_a_right_gradient() -> None:
    """oneDNN's own is wrong by more than its size: channels last, a rate above 1, a batch of 1 or 2."""
    layer, x, slope, wanted = _atrous_case()
    assert far(_gradient_in_bfloat16(layer, x, slope), wanted) < 2e-6


@pytest.mark.usefixtures("plain")
def test_one_photo_in_bfloat16_has_a_right_gradient_without_a_compiler() -> None:
    layer, x, slope, wanted = _atrous_case()
    assert far(_gradient_in_bfloat16(layer, x, slope), wanted) < 6e-3


def test_a_layer_takes_it_where_it_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    kernel = depthwise.depthwise_conv
    monkeypatch.setattr(
        depthwise, "depthwise_conv", lambda *values, **options: taken.append(1) or kernel(*values, **options)
    )

    def runs(*, rate: int, stride: int = 1, train: bool = False, nchw: bool = False) -> int:
        layer = AtrousConv2d(16, 16, kernel=3, rate=rate, stride=stride, groups=16)
        x = torch.randn(2, 16, 9, 9)
        taken.clear()
        with torch.set_grad_enabled(train):
            layer(x if nchw else x.contiguous(memory_format=torch.channels_last))
        return len(taken)

    assert runs(rate=12) == 1 and runs(rate=12, nchw=True) == 0
    assert runs(rate=2) == 0 and runs(rate=2, train=True) == 1
    assert runs(rate=1, stride=2, train=True) == 1 and runs(rate=1, train=True) == 0


def test_an_exported_program_holds_the_plain_convolution() -> None:
    layer = AtrousConv2d(16, 16, kernel=3, rate=12, groups=16).eval()
    x = torch.randn(1, 16, 30, 30).contiguous(memory_format=torch.channels_last)
    program = torch.export.export(layer, (x,))
    assert "conv2d" in program.graph_module.code
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-6, atol=1e-6)
