"""The weights in a checkpoint or a frozen graph, told from everything else such files hold (fact 4.1).

Weights are what a layer computes with; the rest - optimiser slots, counters, quantisation ranges - is
counted, for the report. Where a training kept moving averages of its weights (slim's ImageNet MobileNets),
those are read instead: they are the weights whose accuracy was published.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from deeplab.errors import UserError
from deeplab.importers.tensorflow.bundle import Bundle
from deeplab.importers.tensorflow.graph import Graph, Node

KERNELS = frozenset({"weights", "depthwise_weights", "pointwise_weights"})
LEAVES = KERNELS | {"biases", "gamma", "beta", "moving_mean", "moving_variance"}
AVERAGE = "/ExponentialMovingAverage"
# what else is stored, by the end of its name; the first that fits counts
EXTRAS: tuple[tuple[str, str], ...] = (
    (r"_quant/", "quantisation ranges"),
    (r"/(Momentum|Adam(_1)?|RMSProp(_1)?|Adagrad|Ftrl(_1)?)$", "optimiser slots"),
    (rf"{AVERAGE}$", "moving averages"),
    (r"^(global_step|beta[12]_power)$", "training counters"),
)


@dataclass(frozen=True)
class Variables:
    """Layers' weights by TensorFlow name.

    Attributes:
        format: what they were read from, in words.
        shapes: TensorFlow's.
        read: gives the values, float arrays of those shapes.
        averaged: how many of them are read from moving averages.
        extras: other entries by kind.
        step: training steps done, if the file says.
    """

    format: str
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    averaged: int
    extras: dict[str, int]
    step: int | None = None


def variables_of_bundle(bundle: Bundle) -> Variables:
    """The weights in a checkpoint; arrays are read when asked for.

    Raises:
        UserError: no layer's weights in it.
    """
    entries = bundle.entries
    stored = {name for name in entries if name.rpartition("/")[2] in LEAVES}
    averages = {name.removesuffix(AVERAGE) for name in entries if name.endswith(AVERAGE)}
    averages = {name for name in averages if name.rpartition("/")[2] in LEAVES}

    def read(name: str) -> np.ndarray:
        return bundle.read(name + AVERAGE if name in averages else name)

    return Variables(
        format=f"TensorFlow V2 checkpoint, {len(entries)} entries",
        shapes=_shapes(
            {name: entries[name + AVERAGE if name in averages else name].shape for name in stored | averages},
            f"{bundle.prefix}.index",
        ),
        read=read,
        averaged=len(averages),
        extras=_count_extras(entries.keys() - stored),
        step=int(bundle.read("global_step").ravel()[0]) if "global_step" in entries else None,
    )


def variables_of_graph(graph: Graph, source: str) -> Variables:
    """The constants of a frozen graph that are layers' weights.

    Raises:
        UserError: none in it.
    """
    constants = {node.name: node for node in graph.nodes.values() if node.op == "Const"}

    def read(name: str) -> np.ndarray:
        value = graph.constant(name)
        assert value is not None
        return value

    return Variables(
        format=f"frozen TensorFlow graph, {len(graph.nodes)} nodes",
        shapes=_shapes(
            {name: _shape(node) for name, node in constants.items() if name.rpartition("/")[2] in LEAVES},
            source,
        ),
        read=read,
        averaged=0,
        extras=_count_extras(name for name in constants if re.search(r"_quant/(min|max)$", name)),
    )


def _shape(node: Node) -> tuple[int, ...]:
    return node.attributes["value"].shape() if "value" in node.attributes else ()


def _shapes(found: dict[str, tuple[int, ...]], source: str) -> dict[str, tuple[int, ...]]:
    if not any(name.rpartition("/")[2] in KERNELS for name in found):
        raise UserError(
            "holds no weights of slim's layers (names ending in /weights): it is a checkpoint or "
            "graph of something else, or a graph that was not frozen",
            file=source,
        )
    return found


def _count_extras(names: Iterable[str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name in names:
        kinds = (kind for pattern, kind in EXTRAS if re.search(pattern, name))
        counts[next(kinds, "other entries")] += 1
    return dict(sorted(counts.items()))
