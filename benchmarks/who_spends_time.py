"""Who spends the time: a photo through a model, and a training step, by kind of work.

    python benchmarks/who_spends_time.py [--model animals ...] [--size 512 512] [--batch 4]

Prediction is timed layer by layer (`Segmenter`, engine torch, one photo), training by torch's profiler (forward, loss,
backward, update, as `deeplab train` does them). Photos and labels are made up: they do not change what is computed.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import torch
from harness.machine import machine
from harness.results import markdown
from torch import nn
from torch.profiler import ProfilerActivity, profile

from deeplab.heads.packed_decoder import PackedDecoderStage
from deeplab.layers.packed_conv import PackedConv
from deeplab.layers.packed_separable import PackedInvertedResidual, PackedSeparableConv
from deeplab.model.checkpoint import load
from deeplab.model.network import DeepLab
from deeplab.prediction.segmenter import Segmenter
from deeplab.system.memory import keep_freed_memory
from deeplab.train.loop import batch_loss

WARM, RUNS = 3, 10
SHOWN = 12
BLOCKS = {
    PackedInvertedResidual: "MobileNet blocks",
    PackedSeparableConv: "separable convolutions",
    PackedDecoderStage: "decoder",
}


def main() -> None:
    """Prints two tables a model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["animals"])
    parser.add_argument("--size", nargs=2, type=int, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=4, help="photos of a training step")
    options = parser.parse_args()
    keep_freed_memory()
    about = machine()
    print(f"{about['processor']} ({', '.join(about['features'])}), {torch.get_num_threads()} threads")
    for name in options.model:
        for title, spent in (
            ("prediction", prediction(name, *options.size)),
            ("training step", training(load(name), options.batch, *options.size)),
        ):
            total = sum(spent.values())
            print(f"\n{name}, {title}, {1000 * total:.0f} ms\n")
            rows = [
                [kind, f"{1000 * seconds:.1f}", f"{seconds / total:.0%}"]
                for kind, seconds in spent.most_common(SHOWN)
            ]
            print(markdown(["work", "ms", "share"], rows))


def prediction(name: str, height: int, width: int) -> Counter[str]:
    """Seconds of one photo by kind of layer."""
    segmenter = Segmenter(name, device="cpu")
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for _ in range(WARM):
        segmenter(photo)
    spent: Counter[str] = Counter()
    network = segmenter.predictor.network
    network.low_resolution_logits = timed(network.low_resolution_logits, "network", spent)
    for layer in outermost(network):
        kind = BLOCKS.get(type(layer)) or kind_of(layer)
        layer.forward = timed(layer.forward, kind, spent)
        if isinstance(layer, PackedConv):
            layer.joined = timed(layer.joined, kind, spent)
            layer.behind_constant = timed(layer.behind_constant, kind, spent)
    whole = timed(segmenter, "whole", spent)
    for _ in range(RUNS):
        whole(photo)
    total, within = spent.pop("whole"), spent.pop("network")
    layers = sum(spent.values())
    spent["the network's rest: normalising, resizing, concatenating"] = within - layers
    spent["upsampling with argmax, photo in, labels out"] = total - within
    return Counter({kind: seconds / RUNS for kind, seconds in spent.items()})


def outermost(model: nn.Module) -> Iterator[nn.Module]:
    """Packed convolutions and blocks of them that are not inside another block."""
    for child in model.children():
        if type(child) in BLOCKS or isinstance(child, PackedConv):
            yield child
        else:
            yield from outermost(child)


def timed(function: Callable, kind: str, spent: Counter[str]) -> Callable:
    """`function`, its seconds added to `spent`."""

    def run(*arguments: object) -> object:
        began = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent[kind] += time.perf_counter() - began

    return run


def kind_of(layer: nn.Conv2d) -> str:
    """Such as '3x3 depthwise convolutions, rate 12'."""
    depthwise = " depthwise" if layer.groups == layer.in_channels > 1 else ""
    rate = f", rate {layer.dilation[0]}" if max(layer.dilation) > 1 else ""
    return f"{layer.kernel_size[0]}x{layer.kernel_size[1]}{depthwise} convolutions{rate}"


def training(model: DeepLab, batch: int, height: int, width: int) -> Counter[str]:
    """Seconds of one step by operation of torch."""
    model = model.to(memory_format=torch.channels_last).train()
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=draw)
    images = images.contiguous(memory_format=torch.channels_last)
    classes = model.config.num_classes
    labels = torch.randint(0, classes, (batch, height, width), dtype=torch.uint8, generator=draw)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        batch_loss(model, images, labels).backward()
        optimiser.step()

    for _ in range(WARM):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(WARM):
            step()
    spent = {each.key: each.self_cpu_time_total / 1e6 / WARM for each in recorded.key_averages()}
    return Counter(spent)


if __name__ == "__main__":
    main()
