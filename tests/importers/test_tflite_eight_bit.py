"""Quantised TensorFlow Lite files compute in 8 bits after import, with the labels of their own runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.shared_folder import shared

from deeplab import DeepLab, Segmenter
from deeplab.config import ASPPConfig, DecoderConfig
from deeplab.errors import UserError

pytest.importorskip("tflite", reason="reading .tflite files needs the extra `tflite`")

from support.tflite_writer import Style, graph_of, to_bytes
from test_tflite import SIZE, last, random_model, small_config

from deeplab import importers
from deeplab.importers.tflite.file import Graph, Quantisation


@pytest.fixture
def import_graph(tmp_path: Path) -> Callable[[Graph], importers.Imported]:
    def run(graph: Graph) -> importers.Imported:
        path = tmp_path / "weights.bin"
        path.write_bytes(to_bytes(graph))
        return importers.import_weights(path)

    return run


def lively(model: DeepLab) -> DeepLab:
    """`model` with weights that keep values from fading over its many layers."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter.normal_(0, (1.5 / parameter[0].numel()) ** 0.5)
    return model


def in_8_bits(graph: Graph) -> Graph:
    """`graph` with all maps on one grid, -8..8."""
    q = Quantisation(np.array([2.0**-4]), np.array([128]), 0)
    tensors = [
        replace(tensor, dtype="uint8", quantisation=q)
        if tensor.data is None and len(tensor.shape) == 4 and tensor.quantisation is None
        else tensor
        for tensor in graph.tensors
    ]
    return replace(graph, tensors=tuple(tensors))


@pytest.fixture(scope="module")
def quantised_graph() -> Graph:
    config = small_config(
        context=ASPPConfig(channels=8, rates=(2,)), decoder=DecoderConfig(channels=8, low_level_channels=4)
    )
    return in_8_bits(
        graph_of(lively(random_model(config)), SIZE, Style(weights="uint8", input="uint8", labels=True))
    )


def photo(*size: int) -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.manual_seed(0))


def assert_equal_up_to_rounding(rounded: torch.Tensor, plain: torch.Tensor) -> None:
    torch.testing.assert_close(rounded, plain, rtol=0, atol=0.25)
    if rounded.shape[2:].numel() > 1:
        # what differs between places, at a few steps of 1/16, must be the same too
        a, b = (logits - logits.mean((2, 3), keepdim=True) for logits in (rounded, plain))
        assert float((a * b).sum() / (a.norm() * b.norm())) > 0.8


def test_is_on_and_can_be_switched(quantised_graph: Graph, import_graph) -> None:
    model, report = import_graph(quantised_graph)
    assert model.eight_bit
    assert any("computes in 8 bits as the file does" in note for note in report.notes)
    with torch.inference_mode():
        rounded = model(photo(*SIZE))
        model.eight_bit = False
        plain = model(photo(*SIZE))
    steps = rounded * 16
    assert torch.equal(steps, steps.round()) and steps.abs().max() <= 128
    assert not torch.equal(plain, rounded)
    assert_equal_up_to_rounding(rounded, plain)


def test_training_is_in_floating_point(quantised_graph: Graph, import_graph) -> None:
    model, _ = import_graph(quantised_graph)
    model.train()(photo(*SIZE)).sum().backward()
    assert model.backbone.stem.conv.weight.grad.abs().sum() > 0


def test_exported_programs_are_in_floating_point(quantised_graph: Graph, import_graph) -> None:
    model, _ = import_graph(quantised_graph)
    images = photo(*SIZE).float()
    program = torch.export.export(model, (images,)).module()
    model.eight_bit = False
    with torch.inference_mode():
        torch.testing.assert_close(program(images), model(images))


@pytest.mark.parametrize("size", [(1, 1), (40, 30), (65, 65)])
@pytest.mark.parametrize("output_stride", [8, 32])
def test_any_size_and_output_stride(
    size: tuple[int, int], output_stride: int, quantised_graph: Graph, import_graph
) -> None:
    model, _ = import_graph(quantised_graph)
    model.output_stride = output_stride
    with torch.inference_mode():
        rounded = model(photo(*size))
        model.eight_bit = False
        assert_equal_up_to_rounding(rounded, model(photo(*size)))


@pytest.mark.parametrize("on", [True, False])
def test_is_saved_and_loaded(on: bool, quantised_graph: Graph, import_graph, tmp_path: Path) -> None:
    model, _ = import_graph(quantised_graph)
    model.eight_bit = on
    model.save_pretrained(tmp_path / "saved")
    loaded = DeepLab.from_pretrained(tmp_path / "saved")
    assert loaded.eight_bit is on
    assert loaded.state_dict().keys() == model.state_dict().keys()
    loaded.eight_bit = model.eight_bit = True
    with torch.inference_mode():
        assert torch.equal(loaded(photo(*SIZE)), model(photo(*SIZE)))


def test_missing_scales_are_named(quantised_graph: Graph, import_graph, tmp_path: Path) -> None:
    model, _ = import_graph(quantised_graph)
    del model.eight_bit_tables.weight_scales["backbone.blocks.3.expand"]
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(UserError, match=r"8-bit scales do not fit.*backbone\.blocks\.3\.expand"):
        DeepLab.from_pretrained(tmp_path / "saved")


def test_a_change_of_grid_that_is_not_followed_leaves_floating_point(
    quantised_graph: Graph, import_graph
) -> None:
    block = next(op for op in quantised_graph.ops if op.kind == "ADD")
    finer = Quantisation(np.array([2.0**-5]), np.array([128]), 0)
    source = quantised_graph.tensors[block.inputs[0]]
    number = len(quantised_graph.tensors)
    convert = replace(
        block,
        number=block.number,
        kind="QUANTIZE",
        inputs=block.inputs[:1],
        outputs=(number,),
        options={},
    )
    ops = list(quantised_graph.ops)
    ops[block.number : block.number + 1] = [convert, replace(block, inputs=(number, block.inputs[1]))]
    graph = replace(
        quantised_graph,
        tensors=(*quantised_graph.tensors, replace(source, name="finer", quantisation=finer)),
        ops=tuple(replace(op, number=place) for place, op in enumerate(ops)),
    )
    model, report = import_graph(graph)
    assert model.eight_bit is False
    assert any(rf"operation {block.number + 1} (ADD) re-quantises" in note for note in report.notes)


def test_scales_too_far_apart_leave_floating_point(quantised_graph: Graph, import_graph) -> None:
    number = last(quantised_graph, "ADD").outputs[0]
    tensors = list(quantised_graph.tensors)
    far = Quantisation(np.array([2.0**-13]), np.array([128]), 0)
    tensors[number] = replace(tensors[number], quantisation=far)
    model, report = import_graph(replace(quantised_graph, tensors=tuple(tensors)))
    assert model.eight_bit is False
    assert any("scales are 512 times its own" in note for note in report.notes)


@pytest.mark.parametrize(
    ("weights", "golden", "photos"),
    [
        ("deeplabv3_mnv2_pascal_quant", "published_voc_mnv2_os16_513_uint8", ("coffee", "astronaut")),
        ("deeplabv3_mnv2_ade20k_int8", "published_ade32_mnv2_v3plus_512_int8", ("coffee",)),
    ],
)
def test_published_labels_are_reproduced(
    weights: str, golden: str, photos: tuple[str, ...], tmp_path: Path
) -> None:
    """By the whole road: import, save, load, segment. Every pixel of all six photos was equal."""
    source = shared(f"assets/weights/{weights}.tflite")
    importers.import_weights(source).model.save_pretrained(tmp_path)
    segmenter = Segmenter(tmp_path, device="cpu")
    with np.load(shared(f"golden/{golden}.npz")) as data:
        for name in photos:
            labels = segmenter(data[f"{name}.input"]).labels
            assert (labels == data[f"{name}.labels"]).mean() == 1.0
