"""Everything that makes inference fast, against the plain way: labels alone, folded norms, packed weights, threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from support.shared_folder import shared
from torch import nn

from deeplab.errors import UserError
from deeplab.layers.activations import make_activation
from deeplab.layers.conv import AtrousConv2d
from deeplab.layers.packed_conv import FUSED, PackedConv
from deeplab.model.checkpoint import load, save
from deeplab.model.eight_bit import EightBit
from deeplab.model.network import DeepLab
from deeplab.prediction.fold import folded, for_inference
from deeplab.prediction.inference import predict, predict_labels
from deeplab.prediction.segmenter import Segmenter
from deeplab.presets import preset
from deeplab.system.pipeline import AHEAD, Lanes, pipelined

CPU = torch.device("cpu")
SMALL = "mobilenetv2_dm05_coco_voc_trainaug"


def images(height: int = 65, width: int = 97) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=draw).permute(0, 3, 1, 2)


def trained(name: str) -> DeepLab:
    """Random weights, and norms that change something."""
    torch.manual_seed(0)
    model = DeepLab(preset(name)).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values, low, high in (
                (layer.running_var, 0.5, 1.5),
                (layer.weight, 0.5, 1.5),
                (layer.bias, -1, 1),
            ):
                nn.init.uniform_(values, low, high)
            nn.init.normal_(layer.running_mean, std=0.1)
    return model


@torch.inference_mode()
def logits(model: DeepLab, pixels: torch.Tensor) -> torch.Tensor:
    return model.low_resolution_logits(pixels)["semantic"].float()


def assert_agree(found: torch.Tensor, expected: torch.Tensor, *, within: float = 2e-5) -> None:
    assert (found - expected).abs().max() <= within * expected.abs().max()


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    pixels = np.array(Image.open(shared("assets/photos/image2.jpg")).convert("RGB").resize((161, 129)))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def test_labels_alone_are_those_of_probabilities(photo) -> None:
    model = load("animals")
    full = model.eval().resize_logits(model.low_resolution_logits(photo)["semantic"], photo.shape[-2:])
    found = predict_labels(model, photo)["semantic"]
    expected = predict(model, photo)["semantic"].labels
    assert found.dtype == torch.uint8
    assert expected.unique().numel() > 1
    best = full.topk(2, 1).values
    tied = best[:, 0] - best[:, 1] <= 1e-5 * full.abs().max()
    assert ((found == expected) | tied).all()


def test_labels_at_several_scales_are_those_of_predict() -> None:
    """Without probabilities at full size, which exist for a strip at a time."""
    model, options = trained(SMALL), {"scales": (0.75, 1.0), "flip": True}
    photo = images()[0].permute(1, 2, 0).numpy()
    found = Segmenter(model, device="cpu", **options)(photo)
    expected = predict(model, images()[:1], **options)["semantic"]
    best = expected.probabilities.topk(2, 1).values[0]
    assert found.labels.dtype == np.uint8
    assert ((torch.from_numpy(found.labels) == expected.labels[0]) | (best[0] - best[1] < 1e-5)).all()


@pytest.mark.parametrize("name", [SMALL, "edgetpu_deeplab_slim", "mobilenetv3_small_cityscapes_trainfine"])
def test_folded_and_ready_models_give_the_same_logits(name) -> None:
    model = trained(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = logits(model, images())
    assert_agree(logits(folded(model), images()), expected)
    assert_agree(logits(for_inference(model, device=CPU), images()), expected)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_folded_models_can_be_saved(tmp_path) -> None:
    model = folded(trained(SMALL))
    assert model.config.folded
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    save(model, tmp_path)
    assert torch.equal(logits(load(tmp_path), images()), logits(model, images()))


def test_ready_models_follow_sizes_strides_and_weights() -> None:
    model = trained(SMALL)
    ready = for_inference(model, device=CPU)
    for size in ((65, 97), (70, 33), (65, 97)):
        assert_agree(logits(ready, images(*size)), logits(model, images(*size)))
    model.output_stride = ready.output_stride = 8
    assert_agree(logits(ready, images()), logits(model, images()))
    with torch.no_grad():
        for each in (model, ready):
            each.classifiers["semantic"].convs[0].weight.mul_(-2)
    assert_agree(logits(ready, images()), logits(model, images()))
    assert torch.equal(logits(copy.deepcopy(ready), images()), logits(ready, images()))


def test_ready_models_still_have_gradients() -> None:
    ready = for_inference(trained(SMALL), device=CPU)
    found = ready(images())
    assert_agree(found.detach(), ready.resize_logits(logits(ready, images()), (65, 97)))
    found.sum().backward()
    assert all(weight.grad is not None for weight in ready.parameters())


def test_bfloat16_keeps_pixels_and_labels(photo) -> None:
    ready = for_inference(load("animals"), device=CPU, precision="bfloat16")
    assert ready.pixel_mean.dtype == torch.float32
    assert {weight.dtype for weight in ready.parameters()} == {torch.bfloat16}
    found, exact = (predict_labels(each, photo)["semantic"] for each in (ready, load("animals")))
    assert (found == exact).float().mean() > 0.97


def test_models_in_8_bits_keep_their_arithmetic() -> None:
    model = trained(SMALL)
    model.eight_bit_tables = EightBit({}, {})
    assert for_inference(model, device=CPU).eight_bit_tables is None
    model.eight_bit = True
    ready = for_inference(model, device=CPU)
    assert ready.eight_bit
    assert not any(isinstance(layer, PackedConv) for layer in ready.modules())
    with pytest.raises(UserError, match="computes in 8 bits"):
        for_inference(model, device=CPU, precision="bfloat16")


def test_wrong_precision_is_named() -> None:
    with pytest.raises(UserError, match="'half'; allowed are float32, bfloat16"):
        Segmenter(trained(SMALL), precision="half")


@pytest.mark.parametrize("name", [None, "relu", "relu6", "clip6", "hswish", "sigmoid"])
def test_packed_convolution_is_the_plain_one(name) -> None:
    torch.manual_seed(1)
    activation = make_activation(name)
    assert type(activation) in FUSED
    pixels = 5 * torch.randn(2, 16, 12, 15)
    cases = [
        {"kernel": 1, "bias": True},
        {"kernel": 3, "stride": 2},
        {"kernel": 3, "rate": 7, "groups": 16, "bias": True},
        {"kernel": 3, "stride": 2, "groups": 16},
        {"kernel": 4, "rate": 3, "padding_rule": "symmetric"},
    ]
    for case in cases:
        conv = AtrousConv2d(16, 16, **case)
        with torch.inference_mode():
            expected = activation(conv(pixels))
            assert_agree(PackedConv.of(conv, activation)(pixels), expected)


def test_segmenter_keeps_probabilities_and_labels_together() -> None:
    segmenter = Segmenter(trained(SMALL), device="cpu")
    pixels = images()[0].permute(1, 2, 0).numpy()
    alone, both = segmenter(pixels), segmenter(pixels, probabilities=True)
    assert alone.probabilities is None
    assert alone.labels.dtype == both.labels.dtype == np.uint8
    assert (alone.labels == both.labels).mean() > 0.999
    assert (both.probabilities.argmax(0) == both.labels).mean() > 0.999


def test_pipeline_keeps_order_and_errors_in_their_place() -> None:
    def read(number: int) -> int:
        if number == 3:
            raise UserError("three")
        return 10 * number

    def write(number: int, made: int) -> tuple[int, int, str]:
        if number == 5:
            raise OSError("five")
        return number, made, threading.current_thread().name

    found = list(pipelined(range(9), read=read, compute=lambda value: value + 1, write=write))
    assert all(future.done() for future in found)
    assert isinstance(found[3].exception(), UserError)
    assert isinstance(found[5].exception(), OSError)
    good = [future.result() for place, future in enumerate(found) if place not in (3, 5)]
    assert [each[:2] for each in good] == [(n, 10 * n + 1) for n in range(9) if n not in (3, 5)]
    assert threading.main_thread().name not in {each[2] for each in good}


def test_lanes_compute_side_by_side_in_order_and_some_items_alone() -> None:
    meeting = threading.Barrier(2, timeout=60)
    began: list[threading.Thread] = []
    computed: list[int] = []
    caller = threading.current_thread()

    def compute(number: int) -> int:
        if number < 6:
            # nobody passes who is alone
            meeting.wait()
            computed.append(number)
        elif number == 6:
            assert threading.current_thread() is caller and sorted(computed) == list(range(6))
        elif number == 8:
            raise UserError("eight")
        return 10 * number

    def write(number: int, made: int) -> int:
        if number == 3:
            raise OSError("three")
        return made

    lanes = Lanes(2, lambda: began.append(threading.current_thread()), alone=lambda number: number == 6)
    threads = threading.active_count()
    found = list(pipelined(range(9), read=lambda n: n, compute=compute, write=write, lanes=lanes))
    assert {n: type(each.exception()) for n, each in enumerate(found) if each.exception()} == {
        3: OSError,
        8: UserError,
    }
    assert [each.result() for n, each in enumerate(found) if n not in (3, 8)] == [0, 10, 20, 40, 50, 60, 70]
    assert len(set(began)) == 2 and caller not in began
    assert threading.active_count() == threads


def test_a_caller_who_stops_ends_the_lanes() -> None:
    computed: list[int] = []
    lanes = Lanes(2, lambda: None, alone=lambda number: False)
    threads = threading.active_count()
    done = pipelined(
        range(100), read=lambda n: n, compute=computed.append, write=lambda n, made: n, lanes=lanes
    )
    assert next(done).result() == 0
    done.close()
    assert len(computed) <= 2 * (lanes.count + AHEAD) + 1
    assert threading.active_count() == threads


def test_pipeline_reads_a_few_items_ahead_and_stops_on_an_interrupt() -> None:
    started: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            started.append(number)
            yield number

    def compute(number: int) -> int:
        if number == 4:
            raise KeyboardInterrupt
        return number

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        for _ in pipelined(items(), read=lambda n: n, compute=compute, write=lambda n, made: made):
            pass
    assert len(started) <= 4 + 1 + AHEAD
    assert threading.active_count() == threads
