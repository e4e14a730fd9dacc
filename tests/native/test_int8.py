"""Convolutions in 8 bits: compiled and plain code give the same bits, near the convolution in float32."""

from __future__ import annotations

import math
import platform
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deeplab.config import ASPPConfig, DecoderConfig, DeepLabConfig, backbone_config
from deeplab.layers.conv import AtrousConv2d, ConvNormAct, SeparableConv
from deeplab.layers.int8_conv import Int8Conv
from deeplab.layers.inverted_residual import InvertedResidual
from deeplab.layers.packed_conv import PackedConv, PassedConv
from deeplab.model.network import DeepLab
from deeplab.native import int8, separable
from deeplab.native.dense_conv import Place
from deeplab.native.int8 import Range
from deeplab.native.winograd import Ending
from deeplab.prediction.fold import _pack, for_inference
from deeplab.prediction.int8 import _gathered

torch.set_num_threads(1)

# out, in, kernel, stride, rate, height, width: whole and partial vectors of outputs, panels of one to four of them, and
# several; partial quads of channels; partial tiles and blocks of places
CASES = {
    "3x3": (32, 16, 3, 1, 1, 9, 8),
    "rate": (33, 17, 3, 1, (2, 3), 12, 40),
    "rate beyond the map": (16, 16, 3, 1, 12, 9, 8),
    "stride on even sizes": (48, 18, 3, 2, 1, 16, 18),
    "wide": (64, 19, 3, 1, 1, 3, 300),
    "7x7": (24, 20, 7, 2, 1, 31, 26),
    "1x1": (256, 256, 1, 1, 1, 9, 8),
    "1x1 narrow": (7, 24, 1, 1, 1, 33, 33),
    "1x1 with stride": (150, 40, 1, 2, 1, 21, 20),
    "deep": (18, 1000, 1, 1, 1, 9, 10),
}
ENDINGS = {"none": Ending(), "relu6": Ending(0.0, 6.0), "relu": Ending(0.0), "swish": Ending(swish=True)}


@pytest.fixture
def compiled() -> None:
    if int8.KERNEL.why_not:
        pytest.skip(int8.KERNEL.why_not)
    if platform.machine() == "x86_64" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("products and sums are rounded one by one, and last bits differ")


def channels_last(*shape: int) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def seen(x: torch.Tensor) -> Range:
    return Range(x.amin((0, 2, 3)), x.amax((0, 2, 3)), x.mean((0, 2, 3)))


def within(low: torch.Tensor, high: torch.Tensor) -> Range:
    return Range(low, high, (low + high) / 2)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("case", CASES)
def test_compiled_and_plain_give_the_same_bits(compiled: None, case: str, ending: str) -> None:
    torch.manual_seed(0)
    outputs, channels, kernel, stride, rate, height, width = CASES[case]
    conv = AtrousConv2d(channels, outputs, kernel=kernel, stride=stride, rate=rate, bias=True)
    x = channels_last(2, channels, height, width) * torch.rand(channels).view(1, -1, 1, 1)
    # some values lie beyond what was seen before
    low, high, mean = seen(x)
    packed = int8.pack(conv.weight, conv.bias, Range(0.8 * low, 0.9 * high, mean))
    given = (x, packed, conv.place_of(x), ENDINGS[ending])
    added = torch.randn_like(int8.plain_conv(*given))
    assert torch.equal(int8.int8_conv(*given), int8.plain_conv(*given))
    assert torch.equal(int8.int8_conv(*given, added), int8.plain_conv(*given, added))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_convolution_is_near_that_in_float32(threads: int) -> None:
    torch.manual_seed(0)
    conv = AtrousConv2d(40, 24, kernel=3, bias=True)
    # channels of different ranges, one of them never alive
    x = channels_last(1, 40, 20, 21) * torch.logspace(-2, 0, 40).view(1, -1, 1, 1)
    x[:, 7] = 0
    with torch.no_grad():
        expected = conv(x)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = Int8Conv.on(PackedConv.of(conv, nn.Identity()), seen(x))(x)
    finally:
        torch.set_num_threads(before)
    assert 0 < (found - expected).std() / expected.std() < 0.02
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_what_rounded_weights_change_on_average_is_taken_back() -> None:
    torch.manual_seed(0)
    x = channels_last(1, 200, 16, 16) * 0.1 + 3
    weight, place = torch.randn(16, 200, 1, 1), Place((1, 1), (1, 1), ((0, 0), (0, 0)))
    values = seen(x)
    errors = [
        (int8.int8_conv(x, int8.pack(weight, None, each), place) - F.conv2d(x, weight))
        .mean((0, 2, 3))
        .abs()
        .max()
        for each in (values, values._replace(mean=torch.zeros(200)))
    ]
    assert errors[0] < 0.1 * errors[1]


def test_zero_and_padding_are_exact() -> None:
    weight = torch.randn(16, 16, 3, 3)
    packed = int8.pack(weight, None, Range(torch.full((16,), -0.3), torch.full((16,), 1.7), torch.zeros(16)))
    found = int8.int8_conv(torch.zeros(1, 16, 5, 6), packed, Place((1, 1), (1, 1), ((1, 1), (1, 1))))
    assert found.abs().max() < 1e-5


@pytest.mark.parametrize("expands", [True, False])
@pytest.mark.parametrize("projects", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "rate"), [(3, 1, 1), (3, 2, 1), (5, 1, 2), (3, 1, 12)])
def test_one_pass_gives_the_bits_of_its_steps(
    compiled: None, expands: bool, projects: bool, kernel: int, stride: int, rate: int
) -> None:
    """Sums of the depthwise step, which is in float32, are exact here: weights are powers of two."""
    torch.manual_seed(0)
    channels, hidden, outputs = (20, 72, 27) if expands else (72, 72, 27)
    x = channels_last(2, channels, 19, 45).round()
    weight = 2.0 ** torch.randint(-3, 3, (hidden, 1, kernel, kernel))
    reach = (kernel - 1) * rate
    place = Place((stride, stride), (rate, rate), ((reach // 2, reach - reach // 2),) * 2)
    alone = Place((1, 1), (1, 1), ((0, 0), (0, 0)))
    endings = (Ending(0.0, 6.0), Ending(0.0, 6.0), Ending())
    expand = int8.pack(torch.randn(hidden, channels, 1, 1), torch.randn(hidden), seen(x)) if expands else None
    if expand is not None:
        # whole numbers come out of it
        expand = expand._replace(
            factor=torch.ones_like(expand.factor) * 2**-12, bias=expand.bias.round(), zero=expand.zero * 0
        )
    wide = within(torch.zeros(hidden), torch.linspace(1, 6, hidden))
    project = int8.pack(torch.randn(outputs, hidden, 1, 1), torch.randn(outputs), wide) if projects else None
    steps = x if expand is None else int8.plain_conv(x, expand, alone, endings[0])
    steps = F.conv2d(F.pad(steps, place.pads[1] + place.pads[0]), weight, None, stride, 0, rate, hidden)
    steps = steps.clamp(0, 6)
    added = None
    if project is not None:
        added = torch.randn_like(int8.plain_conv(steps, project, alone))
        steps = int8.plain_conv(steps, project, alone, added=added)
    depthwise = separable.by_tap(weight, None)
    found = int8.int8_separable(x, expand, depthwise, project, place=place, endings=endings, added=added)
    assert torch.equal(found, steps)


@pytest.mark.parametrize("convs", [1, 2])
def test_a_classifier_inside_the_decoder_gives_the_same_bits(
    compiled: None, monkeypatch: pytest.MonkeyPatch, convs: int
) -> None:
    torch.manual_seed(0)
    config = DeepLabConfig(
        backbone=backbone_config("mobilenet_v2", width=0.5),
        context=ASPPConfig(rates=(2,), channels=32, separable=True),
        decoder=DecoderConfig(channels=32, low_level_channels=16, convs=convs, separable=True),
        num_classes=5,
    )
    model = DeepLab(config).eval()
    photo = torch.randint(0, 256, (97, 161, 3), dtype=torch.uint8).numpy()
    found = {name: Range(*map(torch.tensor, each)) for name, each in _gathered(model, [photo]).items()}
    images = torch.from_numpy(photo).permute(2, 0, 1)[None]
    with torch.no_grad():
        joined = for_inference(model, device=torch.device("cpu"), ranges=found)
        assert isinstance(joined.classifiers["semantic"].convs[0], PassedConv)
        logits = joined.low_resolution_logits(images)["semantic"]
        monkeypatch.setattr("deeplab.prediction.fold._join_classifier", lambda model: None)
        apart = for_inference(model, device=torch.device("cpu"), ranges=found)
        assert torch.equal(logits, apart.low_resolution_logits(images)["semantic"])
        # where one pass cannot be
        monkeypatch.setattr("deeplab.layers.packed_separable._in_bytes", lambda *of: None)
        assert logits.shape == joined.low_resolution_logits(images)["semantic"].shape
        joined.output_stride = 8
        assert joined.low_resolution_logits(images)["semantic"].shape == logits.shape


def test_blocks_run_in_one_pass_and_as_their_convolutions_alike(
    compiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x = channels_last(1, 24, 17, 18)
    options = {"norm": None, "activation": "relu6", "padding_rule": "same"}
    block = nn.ModuleDict(
        {
            "mobile": InvertedResidual(24, 24, hidden=96, stride=1, **options),
            "separable": SeparableConv(24, 32, norm=None, activation="relu"),
            "plain": ConvNormAct(24, 32, kernel=3, norm=None, activation="relu"),
        }
    ).eval()
    with torch.no_grad():
        expected = {name: layer(x) for name, layer in block.items()}
    every = within(torch.full((24,), -4.0), torch.full((24,), 4.0))
    _pack(
        block,
        {
            "mobile.expand.conv": every,
            "mobile.project.conv": within(torch.zeros(96), torch.full((96,), 2.0)),
            "separable.pointwise.conv": within(torch.zeros(24), torch.full((24,), 4.0)),
            "plain.conv": every,
        },
    )
    with torch.no_grad():
        found = {name: layer(x) for name, layer in block.items()}
        monkeypatch.setenv("DEEPLAB_KERNELS", "plain")
        monkeypatch.setattr(int8, "KERNEL", replace(int8.KERNEL))
        plain = {name: layer(x) for name, layer in block.items()}
    for name, each in expected.items():
        assert 0 < (found[name] - each).std() / each.std() < 0.05, name
        # values at the middle between two bytes may fall to either side
        assert math.isclose((found[name] == plain[name]).float().mean(), 1, abs_tol=0.01), name
