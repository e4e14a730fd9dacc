"""What a graph tells that its variables cannot: rates, strides, multi-grid, windows, epsilons (fact 4.5).

Everything is read where the reference's export puts it: attributes and blocks of the convolutions named by
their variables, windows of the poolings before them, sizes of the resizes behind them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from deeplab.config import ResizeRule
from deeplab.errors import UserError
from deeplab.importers.tensorflow.graph import Graph, Node
from deeplab.importers.tensorflow.layers import (
    CONVOLUTIONS,
    Conv,
    activation_behind,
    convolutions,
    epsilons,
    size_behind,
    size_of,
    strides_of,
    total_stride,
    upstream,
    window_of,
)
from deeplab.importers.tensorflow.options import Structure

NOMINAL_STRIDE = 32
# a cell's rates are stated at this output stride (fact 3.3)
CELL_STRIDE = 16


@dataclass
class Facts:
    """What the graph tells.

    Attributes:
        options: the reference's flags and their values.
        backbone_eps, head_eps: of the norms; None where the graph has none.
        resize: the rule of every bilinear resize.
        crop: height and width that photos are padded to.
    """

    options: dict[str, Any] = field(default_factory=dict)
    backbone_eps: float | None = None
    head_eps: float | None = None
    resize: ResizeRule = "align_corners"
    crop: tuple[int, int] | None = None


def facts_of(graph: Graph, structure: Structure) -> Facts:
    """Read `graph`, whose variables gave `structure`.

    Raises:
        UserError: a graph that contradicts itself, or that no export of the reference looks like.
    """
    scope = structure.scope
    convs = convolutions(graph)
    facts = Facts()
    options = facts.options
    facts.backbone_eps, facts.head_eps = _epsilons(graph, scope)
    facts.resize = _resize_rule(graph)
    facts.crop = _crop(graph)
    options["output_stride"] = _output_stride(graph, convs, structure, scope)
    if structure.branches:
        options["atrous_rates"] = _rates(convs, structure)
    if "multi_grid" in structure.open or scope.startswith("xception"):
        options["multi_grid"] = _multi_grid(convs, options["output_stride"], scope)
    if "image_pooling/weights" in convs:
        options |= _pooling(graph, convs["image_pooling/weights"], options["output_stride"])
    if structure.options.get("aspp_with_squeeze_and_excitation"):
        gate = activation_behind(graph, convs["image_pooling/weights"].node)
        options["image_se_uses_qsigmoid"] = gate == "Relu6"
    if "dense_prediction_cell_config" in structure.open:
        options["dense_prediction_cell_config"] = _cell(graph, convs, structure, options["output_stride"])
    options["use_bounded_activation"] = _bounded(graph, convs, scope)
    if scope in ("pnasnet", "hnasnet"):
        options |= _nas(convs, structure, scope)
    return facts


def _epsilons(graph: Graph, scope: str) -> tuple[float | None, float | None]:
    found: tuple[set[float], set[float]] = (set(), set())
    for name, value in epsilons(graph).items():
        found[not name.startswith(f"{scope}/")].add(round(value, 9))
    for part, values in zip(("backbone", "head"), found, strict=True):
        if len(values) > 1:
            raise UserError(f"the {part}'s batch norms have several epsilons: {sorted(values)}; one is known")
    backbone, head = (values.pop() if values else None for values in found)
    return backbone, head


def _resize_rule(graph: Graph) -> ResizeRule:
    rules: set[ResizeRule] = set()
    for node in graph.nodes.values():
        if node.op == "ResizeBilinear":
            half = "half_pixel" if node.flag("half_pixel_centers") else "legacy"
            rules.add("align_corners" if node.flag("align_corners") else half)
    if len(rules) > 1:
        raise UserError(f"the graph resizes by several rules: {', '.join(sorted(rules))}")
    return rules.pop() if rules else "align_corners"


def _crop(graph: Graph) -> tuple[int, int] | None:
    sizes = [size_of(graph, node) for node in graph.nodes.values() if node.op == "ResizeBilinear"]
    return max((size for size in sizes if size), default=None)


def _output_stride(graph: Graph, convs: dict[str, Conv], structure: Structure, scope: str) -> int:
    if "output_stride" in structure.options:
        return structure.options["output_stride"]
    if scope == "hnasnet":
        # its cells end at 8 by detours that strides alone do not tell
        names = [f"{scope}/downsample_os{stride}_conv/weights" for stride in (16, 32)]
        return 8 * math.prod(_known(convs, name).stride for name in names)
    readers = ("aspp0", "meta_architecture/branch0_depthwise", "meta_architecture/branch0", "logits/semantic")
    for name in readers:
        leaf = "depthwise_weights" if name.endswith("depthwise") else "weights"
        if f"{name}/{leaf}" in convs:
            return total_stride(graph, convs[f"{name}/{leaf}"].node)
    raise UserError("the graph does not use the head whose weights it holds: it was cut before the head")


def _rates(convs: dict[str, Conv], structure: Structure) -> list[int]:
    count = structure.branches
    if structure.options.get("aspp_with_batch_norm", True):
        separable = structure.options["aspp_with_separable_conv"]
        leaf = "_depthwise/depthwise_weights" if separable else "/weights"
        names = [f"aspp{index + 1}{leaf}" for index in range(count)]
    else:
        names = [f"logits/semantic{f'_{index}' if index else ''}/weights" for index in range(count)]
    return [_known(convs, name).rate[0] for name in names]


def _multi_grid(convs: dict[str, Conv], output_stride: int, scope: str) -> list[int] | None:
    if scope.startswith("xception"):
        module = f"{scope}/exit_flow/block2/unit_1/xception_module"
        names = [f"{module}/separable_conv{index}_depthwise/depthwise_weights" for index in (1, 2, 3)]
    else:
        unit, conv = ("lite_bottleneck_v1", "conv1") if scope.endswith("_18") else ("bottleneck_v1", "conv2")
        units = range(1, 3 if scope.endswith("_18") else 4)
        names = [f"{scope}/block4/unit_{index}/{unit}/{conv}/weights" for index in units]
    base = NOMINAL_STRIDE // output_stride
    rates = [_known(convs, name).rate[0] // base for name in names]
    return None if set(rates) == {1} else rates


def _pooling(graph: Graph, conv: Conv, output_stride: int) -> dict[str, Any]:
    pool = _pool_before(graph, conv.node)
    if pool is None:
        return {}
    window = window_of(pool)
    # a window as large as the map is the whole photo's mean, whatever the photo's size is then
    if size_behind(graph, conv.node) in (window, None):
        return {"image_pooling_crop_size": None}
    crop = [(side - 1) * output_stride + 1 for side in window]
    return {"image_pooling_crop_size": crop, "image_pooling_stride": list(strides_of(pool))}


def _pool_before(graph: Graph, node: Node) -> Node | None:
    for step in upstream(graph, node):
        if step.op == "AvgPool":
            return step
        if step.op in CONVOLUTIONS:
            return None
    return None


def _cell(
    graph: Graph, convs: dict[str, Conv], structure: Structure, output_stride: int
) -> list[dict[str, Any]]:
    branches: list[dict[str, Any]] = []
    outputs: dict[str, int] = {}
    for index, known in enumerate(structure.options["dense_prediction_cell_config"]):
        scope = f"meta_architecture/branch{index}"
        separable = known["kernel"] > 1
        first = _known(convs, f"{scope}_depthwise/depthwise_weights" if separable else f"{scope}/weights")
        last = _known(convs, f"{scope}_pointwise/weights") if separable else first
        pool = _pool_before(graph, first.node)
        branch = {**known, "input": _branch_read(graph, first.node, outputs)}
        if pool is not None:
            branch = {
                "op": "pyramid_pooling",
                "input": branch["input"],
                "grid_size": _grid(graph, first, pool),
            }
        elif separable:
            branch["rate"] = [rate * output_stride // CELL_STRIDE for rate in first.rate]
        branches.append(branch)
        outputs[last.node.name] = index
    return branches


def _branch_read(graph: Graph, node: Node, outputs: dict[str, int]) -> int:
    for step in upstream(graph, node):
        if step.op in CONVOLUTIONS:
            return outputs.get(step.name, -1)
    return -1


def _grid(graph: Graph, conv: Conv, pool: Node) -> list[int]:
    size = size_behind(graph, conv.node)
    if size is None:
        raise UserError("the windows of the cell's pyramid pooling need a graph exported at a fixed size")
    # window = (side - 1) / grid + 1, rounded down
    return [
        max(1, round((side - 1) / (window - 1))) if window > 1 else side
        for side, window in zip(size, window_of(pool), strict=True)
    ]


def _bounded(graph: Graph, convs: dict[str, Conv], scope: str) -> bool:
    if scope.startswith("xception"):
        return any(node.op == "Relu6" and node.name.startswith(f"{scope}/") for node in graph.nodes.values())
    heads = [name for name in convs if name.startswith(("aspp", "decoder/"))]
    return any(activation_behind(graph, convs[name].node) == "Relu6" for name in heads)


def _nas(convs: dict[str, Conv], structure: Structure, scope: str) -> dict[str, Any]:
    flags = dict(structure.options["nas_architecture_options"])
    levels_to_32 = scope == "hnasnet" or structure.options["output_stride"] == NOMINAL_STRIDE
    if levels_to_32:
        # the first operation that reads the input of the cell that enters stride 32
        side, kernel = ("right", 3) if scope == "hnasnet" else ("left", 5)
        name = f"{scope}/cell_8/comb_iter_0/{side}/separable_{kernel}x{kernel}_1/depthwise_weights"
        flags["nas_remove_os32_stride"] = _known(convs, name).stride == 1
    return {"nas_architecture_options": flags}


def _known(convs: dict[str, Conv], name: str) -> Conv:
    if name not in convs:
        raise UserError(f"the graph has no convolution that uses {name}")
    return convs[name]
