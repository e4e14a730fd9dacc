"""What is read off graphs: rates, strides, windows and epsilons, in each of the ways that exports write them.

The graphs are made here, of the operations alone that carry a fact; what is expected are the options of the
golden vectors with the same variables.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.shared_folder import shared
from support.tensorflow_files import GraphWriter, field

from deeplab.errors import UserError
from deeplab.importers.tensorflow.facts import Facts, facts_of
from deeplab.importers.tensorflow.graph import read_graph
from deeplab.importers.tensorflow.layers import convolutions
from deeplab.importers.tensorflow.options import infer


def options_of(case: str) -> dict[str, Any]:
    return json.loads(str(np.load(shared(f"golden/{case}.npz"))["options"]))


def read(writer: GraphWriter, case: str, folder: Path) -> Facts:
    variables = json.loads(str(np.load(shared(f"golden/{case}.npz"))["variables"]))
    structure = infer({name: tuple(shape) for name, shape in variables})
    return facts_of(read_graph(writer.save(folder / "graph.pb")), structure)


def strided_stem(writer: GraphWriter, *strides: int) -> str:
    x = writer.node("ImageTensor", "Placeholder")
    x = writer.node("scaled", "Mul", writer.constant("factor", 2 / 255), x)
    for index, stride in enumerate(strides):
        x = writer.conv(f"stem{index}/weights", x, stride=stride)
    return x


@pytest.mark.parametrize("block", [True, False])
def test_rates_multi_grid_and_output_stride_of_a_resnet(tmp_path: Path, block: bool) -> None:
    case = "d03_r101beta_os8_mg124_dec4_65"
    writer = GraphWriter()
    x = strided_stem(writer, 2, 1, 1)
    x = writer.node("pool1", "MaxPool", x, **{"strides": field(1, field(3, bytes([1, 2, 2, 1])))})
    x = writer.conv("reduce/weights", x, stride=2)
    for unit, rate in zip((1, 2, 3), (4, 8, 16), strict=True):
        scope = f"resnet_v1_101/block4/unit_{unit}/bottleneck_v1"
        y = writer.conv(f"{scope}/conv2/weights", x, rate=rate, block=block)
        x = writer.node(f"{scope}/add", "Add", y, x)
    x = writer.node("features", "Relu", writer.norm("resnet_v1_101/block4", x, epsilon=1.5e-5))
    aspp = writer.conv("aspp0/weights", x)
    writer.node("aspp0/Relu", "Relu", writer.norm("aspp0", aspp, epsilon=2e-5))
    for index, rate in enumerate((12, 24, 36), start=1):
        writer.conv(f"aspp{index}_depthwise/depthwise_weights", x, rate=rate, block=block)
    facts = read(writer, case, tmp_path)
    wanted = options_of(case)
    told = ("output_stride", "atrous_rates", "multi_grid", "use_bounded_activation")
    assert {name: facts.options[name] for name in told} == {name: wanted[name] for name in told}
    assert facts.backbone_eps == pytest.approx(1.5e-5) and facts.head_eps == pytest.approx(2e-5)


def test_gate_and_windows_of_the_mobile_head(tmp_path: Path) -> None:
    case = "b_mnv3_large_os32_257x289"
    writer = GraphWriter()
    x = strided_stem(writer, 2, 2, 2, 2, 2)
    pool = writer.pool("AvgPool", x, (5, 5), (4, 5))
    gate = writer.node("gate/BiasAdd", "BiasAdd", writer.conv("image_pooling/weights", pool), "biases")
    gate = writer.node(
        "gate/Relu6", "Relu6", writer.node("gate/add", "Add", gate, writer.constant("three", 3.0))
    )
    gate = writer.node("gate/mul", "Mul", gate, writer.constant("sixth", 0.16667))
    writer.resize("gate/resize", gate, (9, 10))
    writer.node("aspp0/Relu", "Relu", writer.conv("aspp0/weights", x))
    facts = read(writer, case, tmp_path)
    wanted = options_of(case)
    told = ("output_stride", "image_pooling_crop_size", "image_pooling_stride", "image_se_uses_qsigmoid")
    assert {name: facts.options[name] for name in told} == {name: wanted[name] for name in told}
    assert facts.resize == "align_corners" and facts.crop == (9, 10)


def test_a_window_as_large_as_the_map_is_the_whole_photos_mean(tmp_path: Path) -> None:
    writer = GraphWriter()
    x = strided_stem(writer, 2, 2, 2, 2)
    pooled = writer.conv("image_pooling/weights", writer.pool("AvgPool", x, (5, 5)))
    writer.resize("resize", writer.node("image_pooling/Relu", "Relu", pooled), (5, 5))
    writer.node("aspp0/Relu6", "Relu6", writer.conv("aspp0/weights", x))
    facts = read(writer, "a01_mnv2_os16_plain_65", tmp_path)
    assert facts.options["image_pooling_crop_size"] is None
    assert facts.options["use_bounded_activation"] is True


def test_dense_prediction_cell_with_pyramid_pooling(tmp_path: Path) -> None:
    case = "e03_mnv2_dpc_custom_pyramid_os16_129"
    wanted = options_of(case)["dense_prediction_cell_config"]
    writer = GraphWriter()
    features = strided_stem(writer, 2, 2, 2, 2)
    outputs: list[str] = []
    for index, branch in enumerate(wanted):
        scope = f"meta_architecture/branch{index}"
        x = features if branch["input"] < 0 else outputs[branch["input"]]
        if branch["op"] == "pyramid_pooling":
            x = writer.conv(f"{scope}/weights", writer.pool(f"{scope}/pool", x, branch["kernel"]))
            x = writer.resize(f"{scope}/resize", writer.node(f"{scope}/Relu", "Relu", x), (9, 9))
        elif branch["kernel"] == 1:
            x = writer.node(f"{scope}/Relu", "Relu", writer.conv(f"{scope}/weights", x))
        else:
            x = writer.conv(f"{scope}_depthwise/depthwise_weights", x, rate=tuple(branch["rate"]))
            x = writer.conv(f"{scope}_pointwise/weights", writer.node(f"{scope}/Relu", "Relu", x))
        outputs.append(x)
    found = read(writer, case, tmp_path).options["dense_prediction_cell_config"]
    keys = ("op", "input", "rate", "grid_size")
    told = [{key: branch[key] for key in keys if key in branch} for branch in wanted]
    assert [{key: branch[key] for key in keys if key in branch} for branch in found] == told


@pytest.mark.parametrize(("case", "stride"), [("f04_hnas_rm32_dec4_65", 1), ("f02_hnas_os8_dec4_97x129", 2)])
def test_stride_of_the_cell_that_enters_32(tmp_path: Path, case: str, stride: int) -> None:
    writer = GraphWriter()
    x = strided_stem(writer, 2)
    cell = "hnasnet/cell_8/comb_iter_0/right/separable_3x3_1"
    x = writer.conv(f"{cell}/depthwise_weights", x, stride=stride)
    for index, rate in enumerate((6, 12, 18), start=1):
        writer.conv(f"aspp{index}_depthwise/depthwise_weights", x, rate=rate)
    facts = read(writer, case, tmp_path)
    assert facts.options["nas_architecture_options"] == options_of(case)["nas_architecture_options"]
    assert facts.options["output_stride"] == 8


def test_eight_bit_graphs_fold_norms_and_quantise_on_the_way(tmp_path: Path) -> None:
    """The operations between a variable and its convolution in an 8-bit export."""
    writer = GraphWriter()
    x = writer.node("ImageTensor", "Placeholder")
    kernel = writer.node(
        "aspp0/weights/read", "Identity", writer.constant("aspp0/weights", np.zeros((1, 1, 1, 1)))
    )
    variance = writer.constant("aspp0/BatchNorm/moving_variance", np.ones(1))
    read_variance = writer.node("aspp0/BatchNorm/moving_variance/read", "Identity", variance)
    total = writer.node("aspp0/fold/add", "AddV2", read_variance, writer.constant("aspp0/fold/add/y", 3e-5))
    factor = writer.node("aspp0/fold/mul", "Mul", writer.node("aspp0/fold/Rsqrt", "Rsqrt", total), "gamma")
    folded = writer.node("aspp0/mul_fold", "Mul", kernel, factor)
    fake = writer.node("aspp0/weights_quant/fake", "FakeQuantWithMinMaxVars", folded, "min", "max")
    x = writer.conv("aspp0/folded", writer.conv("stem/weights", x, stride=16), rate=2, weights=fake)
    x = writer.node("aspp0/add_fold", "Add", x, "bias")
    writer.node("act_quant", "FakeQuantWithMinMaxVars", writer.node("aspp0/Relu6", "Relu6", x), "min", "max")
    graph = read_graph(writer.save(tmp_path / "graph.pb"))
    assert convolutions(graph)["aspp0/weights"].rate == (2, 2)
    facts = read(writer, "a01_mnv2_os16_plain_65", tmp_path)
    assert facts.head_eps == pytest.approx(3e-5)
    assert facts.options["output_stride"] == 16 and facts.options["use_bounded_activation"] is True


def test_contradictions_are_refused(tmp_path: Path) -> None:
    writer = GraphWriter()
    x = strided_stem(writer, 16)
    writer.conv("aspp0/weights", x)
    writer.norm("aspp0", x, epsilon=1e-5)
    writer.norm("concat_projection", x, epsilon=1e-3)
    with pytest.raises(UserError, match="head's batch norms have several epsilons"):
        read(writer, "a01_mnv2_os16_plain_65", tmp_path)
