"""MobileNet blocks and separable convolutions in one pass: float64's values for any stride, rate, padding, width."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from deeplab.config import ASPPConfig, DecoderConfig
from deeplab.heads import packed_decoder
from deeplab.heads.aspp import ASPP
from deeplab.heads.decoder import DecoderStage
from deeplab.layers import packed_separable
from deeplab.layers.conv import AtrousConv2d, SeparableConv
from deeplab.layers.inverted_residual import InvertedResidual
from deeplab.layers.packed_conv import PackedConv
from deeplab.native import dense_conv, separable, upsampled
from deeplab.prediction.fold import ONE_PASS, _pack

torch.set_num_threads(1)

# in, hidden, out, kernel, stride, rate, height, width: rows that are filtered in several pieces, whole and partial
# panels and vectors, channels within one part of a sum and in several, with a skip and without, without expansion
BLOCKS = {
    "skip": (24, 144, 24, 3, 1, 1, 17, 40),
    "stride": (16, 96, 24, 3, 2, 1, 18, 21),
    "rate": (32, 192, 64, 3, 1, 2, 13, 14),
    "rate beyond the map": (16, 48, 16, 3, 1, 12, 9, 10),
    "wide rows": (16, 96, 33, 3, 1, 1, 4, 700),
    "5x5": (24, 72, 40, 5, 2, 1, 15, 33),
    "many channels": (160, 960, 320, 3, 1, 2, 9, 8),
    "odd channels": (5, 27, 5, 3, 1, 1, 8, 9),
    "no expansion": (32, 32, 16, 3, 1, 1, 20, 21),
}
SEPARABLE = {
    "plain": (304, 256, 3, 1, 12, 13),
    "rates": (40, 21, 3, (2, 3), 17, 16),
    "short rows": (64, 48, 3, 1, 40, 5),
    "many channels": (1040, 32, 3, 12, 9, 9),
}


@pytest.fixture(autouse=True)
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    if separable.KERNEL.why_not:
        pytest.skip("no C++ compiler")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each block that was asked ran in one pass."""
    seen = []
    real = packed_separable.in_one_pass

    def asked(*arguments: object, **options: object) -> torch.Tensor | None:
        found = real(*arguments, **options)
        seen.append(found is not None)
        return found

    for module in (packed_separable, packed_decoder):
        monkeypatch.setattr(module, "in_one_pass", asked)
    return seen


def _block(case: tuple, *, activation: str = "relu6", rule: str = "same", **options: object) -> nn.Module:
    channels, hidden, outputs, kernel, stride, rate, *_ = case
    block = InvertedResidual(
        channels,
        outputs,
        hidden=hidden,
        stride=stride,
        kernel=kernel,
        norm=None,
        activation=activation,
        padding_rule=rule,
        **options,
    )
    block.set_atrous(stride, rate)
    return block.eval()


def _packed(layer: nn.Module) -> nn.Module:
    """As `for_inference` makes it, sharing no parameters."""
    whole = nn.Sequential(copy.deepcopy(layer))
    _pack(whole, {})
    assert type(whole[0]) is ONE_PASS[type(layer)].__self__
    return whole[0]


def _image(channels: int, height: int, width: int) -> torch.Tensor:
    torch.manual_seed(1)
    return 3 * torch.randn(2, channels, height, width).contiguous(memory_format=torch.channels_last)


def _assert_near_float64_in_bfloat16(layer: nn.Module, *inputs: object) -> None:
    """That outputs are as far off as rounding to 8 bits of mantissa between two convolutions makes them."""
    layer, images = layer.bfloat16(), [each for each in inputs if isinstance(each, torch.Tensor)]
    sizes = inputs[len(images) :]
    expected = copy.deepcopy(layer).double()(*(image.bfloat16().double() for image in images), *sizes)
    found = _packed(layer)(*(image.bfloat16() for image in images), *sizes)
    assert found.dtype == torch.bfloat16 and found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-2 * expected.abs().max().item())


@pytest.fixture
def bfloat16() -> None:
    if not dense_conv.can_run_halves(_image(2, 2, 2).bfloat16()):
        pytest.skip("no instructions for bfloat16, or oneDNN's are better")


def _assert_as_float64(layer: nn.Module, x: torch.Tensor) -> None:
    expected = layer.double()(x.double())
    found = _packed(layer.float())(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("rule", "activation"), [("same", "relu6"), ("symmetric", "hswish"), ("block", "relu")]
)
@pytest.mark.parametrize("case", BLOCKS)
@torch.no_grad()
def test_blocks_have_the_values_of_float64(case: str, rule: str, activation: str, passes: list[bool]) -> None:
    torch.manual_seed(0)
    channels, _, outputs, _, stride, *_, height, width = BLOCKS[case]
    block = _block(BLOCKS[case], rule=rule, activation=activation)
    assert block.skip == (channels == outputs and stride == 1)
    _assert_as_float64(block, _image(channels, height, width))
    assert passes == [True]


@pytest.mark.parametrize("activation", ["relu", "hswish"])
@torch.no_grad()
def test_squeezed_blocks_are_widened_in_one_pass(activation: str, passes: list[bool]) -> None:
    torch.manual_seed(0)
    block = _block(BLOCKS["5x5"], squeezed=8, activation=activation)
    _assert_as_float64(block, _image(24, 15, 33))
    assert passes == [False, True]


@pytest.mark.parametrize("depthwise_norm", [True, False])
@pytest.mark.parametrize("case", SEPARABLE)
@torch.no_grad()
def test_separable_convolutions_have_the_values_of_float64(
    case: str, depthwise_norm: bool, passes: list[bool]
) -> None:
    torch.manual_seed(0)
    channels, outputs, kernel, rate, height, width = SEPARABLE[case]
    layer = SeparableConv(
        channels,
        outputs,
        norm=None,
        activation="relu",
        kernel=kernel,
        rate=rate,
        depthwise_norm=depthwise_norm,
    )
    _assert_as_float64(layer.eval(), _image(channels, height, width))
    assert passes == [True]


@pytest.mark.parametrize("rule", ["align_corners", "half_pixel", "legacy"])
@pytest.mark.parametrize(
    ("small", "size"), [((9, 8), (33, 29)), ((1, 1), (5, 70)), ((7, 90), (14, 400)), ((6, 7), (6, 7))]
)
@torch.no_grad()
def test_decoders_have_the_values_of_float64(
    small: tuple[int, int], size: tuple[int, int], rule: str, passes: list[bool]
) -> None:
    torch.manual_seed(0)
    stage = DecoderStage(
        20,
        24,
        config=DecoderConfig(channels=32, low_level_channels=12),
        norm=None,
        activation="relu",
        resize=rule,
        depthwise_norm=True,
    ).eval()
    x, low_level = _image(20, *small), _image(24, *size)
    expected = stage.double()(x.double(), low_level.double(), size)
    found = _packed(stage.float())(x, low_level, size)
    # positions are float32 on both sides, those of a rule in float64 differ
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-5 * expected.abs().max().item())
    assert passes == [True, True]


# x, the large map, and channels: more rows than are kept, one row, columns in several pieces, outputs of more than
# a panel and of a part of a vector
UPSAMPLED = {
    "many rows": ((41, 33), (164, 132), 20, 12, 40),
    "one row": ((1, 60), (9, 300), 600, 6, 70),
    "few places": ((2, 2), (8, 7), 16, 48, 21),
}


@pytest.mark.parametrize("rule", ["align_corners", "half_pixel", "legacy"])
@pytest.mark.parametrize("rate", [1, 3])
@pytest.mark.parametrize("case", UPSAMPLED)
@torch.no_grad()
def test_projected_before_it_is_upsampled_it_has_the_values_of_float64(
    case: str, rate: int, rule: str, upsampled_calls: list[int]
) -> None:
    stage, classifier, x, low_level, size = _upsampling(case, rule)
    stage.convs[0].set_atrous(1, rate)
    expected = stage.double()(x.double(), low_level.double(), size)
    packed = _packed(stage.float())
    found = packed(x, low_level, size)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-5 * expected.abs().max().item())
    # by a model's own classifier, at the end of the same pass
    assert packed.convs[0].joins(PackedConv.of(classifier, nn.Identity()))
    logits, expected = packed(x, low_level, size), copy.deepcopy(classifier).double()(expected)
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=3e-5 * expected.abs().max().item())
    assert upsampled_calls == [0, 5]


@pytest.mark.parametrize("case", UPSAMPLED)
@pytest.mark.usefixtures("bfloat16")
@torch.no_grad()
def test_projected_before_it_is_upsampled_it_is_as_near_in_bfloat16(
    case: str, upsampled_calls: list[int]
) -> None:
    stage, _, x, low_level, size = _upsampling(case, "half_pixel")
    _assert_near_float64_in_bfloat16(stage, x, low_level, size)
    assert upsampled_calls == [0]


@pytest.mark.parametrize("case", UPSAMPLED)
@pytest.mark.usefixtures("bfloat16")
@torch.no_grad()
def test_a_classifier_behind_is_near_in_bfloat16_also_of_odd_channels(case: str) -> None:
    stage, classifier, x, low_level, size = _upsampling(case, "half_pixel")
    expected = classifier(stage(x, low_level, size))
    packed = _packed(stage.bfloat16())
    assert packed.convs[0].joins(PackedConv.of(classifier.bfloat16(), nn.Identity()))
    found = packed(x.bfloat16(), low_level.bfloat16(), size)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.03 * expected.abs().max().item())


@torch.no_grad()
def test_what_is_projected_first_follows_weights_sizes_and_threads(upsampled_calls: list[int]) -> None:
    stage, classifier, x, low_level, size = _upsampling("many rows", "half_pixel")
    packed = _packed(stage)
    alone = packed(x, low_level, size)
    torch.set_num_threads(3)
    try:
        assert torch.equal(alone, packed(x, low_level, size))
    finally:
        torch.set_num_threads(1)
    for weights in (stage, packed):
        weights.convs[0].depthwise.bias.add_(1)
        weights.convs[0].pointwise.conv.weight.mul_(2)
    found = packed(x, low_level, size)
    torch.testing.assert_close(found, stage(x, low_level, size), rtol=1e-4, atol=1e-3)
    assert not torch.allclose(found, alone) and len(upsampled_calls) == 3
    # of nearly the same size there are no products to save: the classifier comes behind that way, too
    expected = classifier(stage(x, low_level[:, :, :50, :50], (50, 50)))
    assert packed.convs[0].joins(PackedConv.of(classifier, nn.Identity()))
    found = packed(x, low_level[:, :, :50, :50], (50, 50))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    with torch.enable_grad():
        torch.testing.assert_close(
            packed(x, low_level[:, :, :50, :50], (50, 50)), expected, rtol=1e-4, atol=1e-3
        )
    assert len(upsampled_calls) == 3


@pytest.fixture
def upsampled_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each call of `native.upsampled` the outputs of the convolution behind, 0 where there is none."""
    seen, real = [], upsampled.upsampled_conv

    def called(*arguments: object) -> torch.Tensor:
        seen.append(0 if arguments[6] is None else arguments[6].outputs)
        return real(*arguments)

    monkeypatch.setattr(upsampled, "upsampled_conv", called)
    return seen


def _upsampling(case: str, rule: str) -> tuple:
    """A stage of one convolution with biases, a classifier, and what the stage is asked for."""
    torch.manual_seed(0)
    small, size, channels, behind, outputs = UPSAMPLED[case]
    stage = DecoderStage(
        channels,
        24,
        config=DecoderConfig(channels=outputs, low_level_channels=behind, convs=1),
        norm=None,
        activation="relu",
        resize=rule,
        depthwise_norm=False,
    ).eval()
    conv = stage.convs[0].depthwise
    conv.bias = nn.Parameter(torch.randn(channels + behind))
    classifier = AtrousConv2d(outputs, 5, kernel=1, bias=True)
    return stage, classifier, _image(channels, *small), _image(24, *size), size


@pytest.mark.parametrize("case", ["one image", "two images", "windows of it", "gate"])
@torch.no_grad()
def test_the_image_level_feature_of_one_image_is_a_bias(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    options = {"windows of it": {"image_pooling_crop": (96, 96)}, "gate": {"gate": "sigmoid", "rates": ()}}
    config = ASPPConfig(**{"channels": 40, "rates": (2, 3)} | options.get(case, {}))
    aspp = ASPP(
        32,
        config=config,
        native_stride=16,
        norm=None,
        resize="half_pixel",
        activation="relu",
        depthwise_norm=False,
    ).eval()
    x, size = _image(32, 12, 13)[: 2 if case == "two images" else 1], (192, 208)
    expected = copy.deepcopy(aspp).double()(x.double(), size)
    packed, seen = _packed(aspp), []
    real = PackedConv.behind_constant
    monkeypatch.setattr(
        PackedConv, "behind_constant", lambda *of: seen.append(real(*of) is not None) or real(*of)
    )
    found = packed(x, size)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert seen == {"one image": [True], "two images": [False]}.get(case, [])
    # it follows its weights
    for each in (aspp, packed):
        each.projection.conv.weight.mul_(-1)
    torch.testing.assert_close(packed(x, size), aspp(x, size), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(packed(x, size), found)


@pytest.mark.parametrize("rule", ["same", "block"])
@pytest.mark.parametrize("case", BLOCKS)
@pytest.mark.usefixtures("bfloat16")
@torch.no_grad()
def test_blocks_in_bfloat16_are_as_near_as_it_allows(case: str, rule: str, passes: list[bool]) -> None:
    torch.manual_seed(0)
    channels, *_, height, width = BLOCKS[case]
    _assert_near_float64_in_bfloat16(_block(BLOCKS[case], rule=rule), _image(channels, height, width))
    # numbers are multiplied in pairs
    assert passes == ([False, False] if case == "odd channels" else [True])


@pytest.mark.parametrize("case", SEPARABLE)
@pytest.mark.usefixtures("bfloat16")
@torch.no_grad()
def test_separable_convolutions_in_bfloat16_are_as_near_as_it_allows(case: str, passes: list[bool]) -> None:
    torch.manual_seed(0)
    channels, outputs, kernel, rate, height, width = SEPARABLE[case]
    layer = SeparableConv(channels, outputs, norm=None, activation="relu", kernel=kernel, rate=rate)
    _assert_near_float64_in_bfloat16(layer.eval(), _image(channels, height, width))
    assert passes == [True]


@pytest.mark.usefixtures("bfloat16")
@torch.no_grad()
def test_decoders_in_bfloat16_are_as_near_as_it_allows(passes: list[bool]) -> None:
    torch.manual_seed(0)
    stage = DecoderStage(
        20,
        24,
        config=DecoderConfig(channels=32, low_level_channels=12),
        norm=None,
        activation="relu",
        resize="half_pixel",
        depthwise_norm=True,
    ).eval()
    _assert_near_float64_in_bfloat16(stage, _image(20, 9, 8), _image(24, 33, 29), (33, 29))
    assert passes == [True, True]


@torch.no_grad()
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    torch.manual_seed(0)
    block, x = _packed(_block(BLOCKS["skip"])), _image(24, 65, 66)
    alone = block(x)
    torch.set_num_threads(3)
    try:
        together = block(x)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(alone, together)


@torch.no_grad()
def test_follows_its_weights_and_keeps_what_is_not_a_number(passes: list[bool]) -> None:
    torch.manual_seed(0)
    block, x = _packed(_block(BLOCKS["skip"])), _image(24, 12, 13)
    before = block(x)
    block.depthwise.conv.bias.add_(1)
    block.project.conv.weight.mul_(2)
    plain = block.narrow(x, block.widen(x))
    torch.testing.assert_close(block(x), plain, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(before, plain)
    x[0, 3, 5, 6] = math.nan
    nan = block(x).isnan().any(1)[0]
    assert nan[4:7, 5:8].all() and nan.sum() == 9
    assert all(passes)


@torch.no_grad()
def test_what_cannot_be_one_pass_is_several(passes: list[bool]) -> None:
    torch.manual_seed(0)
    x = _image(24, 12, 13)
    for block in (
        _block(BLOCKS["skip"], activation="sigmoid"),
        _block((24, 72, 24, 7, 1, 1, 12, 13)),
    ):
        torch.testing.assert_close(_packed(block)(x), block(x), rtol=1e-5, atol=1e-4)
    packed, block = _packed(_block(BLOCKS["skip"])), _block(BLOCKS["skip"])
    block.load_state_dict(packed.state_dict())
    torch.testing.assert_close(packed(x.contiguous()), block(x), rtol=1e-5, atol=1e-4)
    with pytest.raises(RuntimeError):
        packed(x[:, :20].contiguous(memory_format=torch.channels_last))
    with torch.enable_grad():
        torch.testing.assert_close(packed(x), block(x), rtol=1e-5, atol=1e-4)
    assert passes and not any(passes)
