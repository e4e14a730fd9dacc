"""Cross-entropy of upsampled logits, forward and backward, beside interpolate + cross_entropy.

    python benchmarks/loss_speed.py --size 8x21x129x129x513x513 --size 2x19x257x513x1025x2049

Equal losses and gradients first, then interleaved rounds, then peak memory: each way once in a process of its own, by
the operating system's account, less what the process held before.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from harness.worker import peak_memory_mb

from deeplab.native import upsample_loss
from deeplab.train.losses.cross_entropy import segmentation_cross_entropy

SIZE = "8x21x129x129x513x513"
IGNORED = 255
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 3e-5
Result = tuple[float, torch.Tensor]


def main() -> None:
    """Prints a line a size and share of hard pixels."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", action="append", help="batch x classes x source height, width x target ones"
    )
    parser.add_argument("--share", type=float, action="append", help="of hard pixels; may be repeated")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    print(
        f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, "
        f"python {platform.python_version()}, torch {torch.__version__}; medians of {options.rounds} rounds"
    )
    for size in options.size or [SIZE]:
        for share in options.share or [1.0]:
            print(f"{size}, share {share:g}: {compare(size, share, options.rounds)}")
            if options.memory:
                used = {name: peak_memory(name, size, share) for name in WAYS}
                print("  peak memory: " + ", ".join(f"{name} +{each:.0f} MB" for name, each in used.items()))


def compare(size: str, share: float, rounds: int) -> str:
    """Checks that both give the same, then runs them in turn."""
    logits, labels = _batch(size)
    results = {name: way(logits, labels, share) for name, way in WAYS.items()}
    (loss, gradient), (expected, slope) = results["deeplab"], results["plain"]
    by_loss = abs(loss - expected) / expected
    by_gradient = ((gradient - slope).abs().max() / slope.abs().max()).item()
    # which of nearly equal losses is the last that counts, rounding decides
    if by_loss > LOSS_TOLERANCE or (share == 1 and by_gradient > GRADIENT_TOLERANCE):
        raise SystemExit(
            f"results differ: loss by {by_loss:.2g}, gradient by {by_gradient:.2g} of the largest"
        )
    took = [{name: _seconds(way, logits, labels, share) for name, way in WAYS.items()} for _ in range(rounds)]
    median = {name: 1000 * statistics.median(each[name] for each in took) for name in WAYS}
    ratio = statistics.median(each["plain"] / each["deeplab"] for each in took)
    return (
        f"plain {median['plain']:.1f} ms, deeplab {median['deeplab']:.1f} ms, {ratio:.2f}x; loss within "
        f"{by_loss:.1g} (allowed {LOSS_TOLERANCE:g}), gradient within {by_gradient:.1g} of the largest "
        f"(allowed {GRADIENT_TOLERANCE:g})"
    )


def ours(logits: torch.Tensor, labels: torch.Tensor, share: float) -> Result:
    logits = logits.detach().requires_grad_()
    loss = segmentation_cross_entropy(logits, labels, top_k=share)
    loss.backward()
    return loss.item(), logits.grad


def plain(logits: torch.Tensor, labels: torch.Tensor, share: float) -> Result:
    """What one writes with torch alone."""
    logits = logits.detach().requires_grad_()
    grown = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=True)
    if share == 1:
        loss = F.cross_entropy(grown, labels.long(), ignore_index=IGNORED)
    else:
        pixels = F.cross_entropy(grown, labels.long(), ignore_index=IGNORED, reduction="none").flatten()
        hardest = pixels.topk(int(share * pixels.numel()), sorted=False).values
        loss = hardest.sum() / (hardest != 0).sum()
    loss.backward()
    return loss.item(), logits.grad


WAYS: dict[str, Callable[[torch.Tensor, torch.Tensor, float], Result]] = {"plain": plain, "deeplab": ours}


def peak_memory(name: str, size: str, share: float) -> float:
    """MB above what a fresh process holds with the batch in memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_own_peak, (name, size, share))


def _own_peak(name: str, size: str, share: float) -> float:
    # a small batch first: libraries and threads are not the loss
    WAYS[name](*_batch("1x3x33x33x129x129"), share)
    logits, labels = _batch(size)
    before = peak_memory_mb()
    WAYS[name](logits, labels, share)
    return peak_memory_mb() - before


def _batch(size: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth logits and labels that mostly fit, 1 pixel in 20 ignored; made without large arrays."""
    images, classes, height, width, *target = (int(number) for number in size.split("x"))
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(images, classes, height // 6 + 2, width // 6 + 2, generator=generator)
    logits = F.interpolate(3 * coarse, size=(height, width), mode="bilinear")
    labels = F.interpolate(logits.argmax(1, keepdim=True).byte(), size=target, mode="nearest")[:, 0]
    labels = labels.roll((5, 9), (1, 2)).contiguous()
    labels[:, ::20] = IGNORED
    return logits, labels


def _seconds(
    way: Callable[[torch.Tensor, torch.Tensor, float], Result],
    logits: torch.Tensor,
    labels: torch.Tensor,
    share: float,
) -> float:
    began = time.perf_counter()
    way(logits, labels, share)
    return time.perf_counter() - began


if __name__ == "__main__":
    if not upsample_loss.KERNEL.ready():
        raise SystemExit("the kernel cannot be compiled here")
    main()
