"""The kernel of batch norm and activation against PyTorch's own in float64: values, gradients, statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from deeplab.layers.conv import ConvNormAct
from deeplab.layers.norm import BatchNorm2d, norm_layer
from deeplab.native import norm_act
from deeplab.train.recompute import statistics_unchanged

# shapes with rests of channels, of rows taken together, and of chunks
SHAPES = {
    "whole blocks": (2, 32, 16, 16),
    "half a block": (3, 24, 9, 11),
    "odd channels": (2, 21, 5, 7),
    "few values": (2, 16, 1, 1),
    "many chunks": (1, 5, 60, 41),
}
ACTIVATIONS = {"none": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6, "hswish": nn.Hardswish}
# of the largest value: float32 sums, and bfloat16's rounding of 8 bits
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 8e-3}


@pytest.fixture(autouse=True)
def compiled() -> None:
    if norm_act.KERNEL.why_not:
        pytest.skip("the kernel cannot be compiled here")


def far(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-9))


def norm_of(channels: int) -> BatchNorm2d:
    norm = BatchNorm2d(channels, eps=1e-3, momentum=0.1)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 3)
        norm.bias.uniform_(-1, 3)
    return norm.train()


def image(shape: tuple[int, ...], dtype: torch.dtype, *, mean: float = 0.0) -> torch.Tensor:
    # every channel has a mean and a spread of its own, as layers' outputs have
    spread = torch.linspace(0.1, 4, shape[1]).view(-1, 1, 1)
    x = torch.randn(shape) * spread + mean * spread
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_gradients_and_statistics(
    shape: tuple, activation: type[nn.Module], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    norm, x = norm_of(shape[1]), image(shape, dtype)
    exact = copy.deepcopy(norm).double()
    leaf, leaf64 = x.clone().requires_grad_(), x.double().requires_grad_()
    assert norm_act.wins(leaf, norm, activation())
    found = norm_act.norm_act(leaf, norm, activation())
    wanted = activation()(exact(leaf64))
    slope = torch.randn(shape).to(dtype)
    found.backward(slope)
    wanted.backward(slope.double())
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    assert far(found.detach(), wanted.detach()) < TOLERANCE[dtype]
    assert far(leaf.grad, leaf64.grad) < 10 * TOLERANCE[dtype]
    # sums are kept in float32 whatever the images are
    assert far(norm.weight.grad, exact.weight.grad) < 2e-5
    assert far(norm.bias.grad, exact.bias.grad) < 2e-5
    # a mean near zero is what is left of values as large as their spread
    assert (norm.running_mean - exact.running_mean).abs().max() < 1e-6 * exact.running_var.sqrt().max()
    # the chunk's first row, around which squares are summed, may lie far out
    assert far(norm.running_var, exact.running_var) < 1e-5
    assert norm.num_batches_tracked == exact.num_batches_tracked == 1


def test_values_are_no_farther_from_the_truth_than_pytorchs() -> None:
    torch.manual_seed(0)
    norm, x = norm_of(48), image((2, 48, 33, 33), torch.float32)
    exact = copy.deepcopy(norm).double()(x.double())
    plain = copy.deepcopy(norm)(x)
    found = norm_act.norm_act(x, norm, nn.Identity())
    assert far(found.detach(), exact.detach()) <= 1.5 * far(plain.detach(), exact.detach())


def test_a_large_mean_does_not_drown_the_spread() -> None:
    torch.manual_seed(0)
    norm, x = norm_of(32), image((2, 32, 40, 40), torch.float32, mean=1000.0)
    exact = copy.deepcopy(norm).double()
    norm_act.norm_act(x, norm, nn.Identity())
    exact(x.double())
    assert far(norm.running_var, exact.running_var) < 1e-5


def test_threads_do_not_change_a_bit() -> None:
    torch.manual_seed(0)
    x, results = image((3, 40, 17, 19), torch.float32), []
    norm, threads = norm_of(40), torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        own, leaf = copy.deepcopy(norm), x.clone().requires_grad_()
        found = norm_act.norm_act(leaf, own, nn.ReLU6())
        found.square().sum().backward()
        results.append([found.detach(), leaf.grad, own.weight.grad, own.bias.grad, own.running_var])
    torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_not_a_number_stays_one(activation: type[nn.Module]) -> None:
    x = image((2, 16, 4, 4), torch.float32)
    x[0, 3, 1, 1] = float("nan")
    found = norm_act.norm_act(x, norm_of(16), activation())
    assert found[:, 3].isnan().all() and found[:, :3].isfinite().all()


def test_a_layer_is_the_same_with_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = ConvNormAct(
        3, 24, kernel=3, norm=norm_layer(eps=1e-3, momentum=0.01), activation="relu6", stride=2
    ).to(memory_format=torch.channels_last)
    x = image((2, 3, 33, 41), torch.float32)
    plain = copy.deepcopy(layer)
    layer(x).square().sum().backward()
    monkeypatch.setattr(norm_act, "wins", lambda *_: False)
    plain(x).square().sum().backward()
    for (name, found), wanted in zip(layer.named_parameters(), plain.parameters(), strict=True):
        assert far(found.grad, wanted.grad) < 5e-5, name
    for (name, found), wanted in zip(layer.named_buffers(), plain.buffers(), strict=True):
        assert far(found, wanted) < 1e-5, name


def test_statistics_can_be_left_alone() -> None:
    """As recomputing does in the backward pass."""
    norm = norm_of(16)
    before = copy.deepcopy(norm.state_dict())
    with statistics_unchanged(norm):
        norm_act.norm_act(image((2, 16, 4, 4), torch.float32), norm, nn.ReLU())
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_what_it_leaves_to_the_plain_path() -> None:
    x, norm = image((2, 16, 4, 4), torch.float32), norm_of(16)
    assert norm_act.wins(x, norm, nn.ReLU())
    assert not norm_act.wins(x.contiguous(), norm, nn.ReLU())
    assert not norm_act.wins(x, norm, nn.Sigmoid())
    assert not norm_act.wins(x.double(), norm, nn.ReLU())
    assert not norm_act.wins(x[:1, :, :1, :1], norm, nn.ReLU()), "one value a channel has a rule of its own"
    assert not norm_act.wins(x, norm.eval(), nn.ReLU())
