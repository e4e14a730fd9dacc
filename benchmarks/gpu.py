"""Training and inference on a CUDA GPU, ours and torchvision's, in one call.

    PYTHONPATH=src python benchmarks/gpu.py [--minutes 9] [--only 'training*'] [--smoke]

Photos a second, peak memory, and the share of the matrix multiplication rate that this card was measured to reach. A
row's ratio is to torchvision in the same way of running (eager, compiled) and the same task; `v3 ResNet` rows are the
same network with the same weights on both sides, whose labels are compared first. Every row is printed and saved as
soon as it is there; those that do not fit into --minutes are named. --smoke runs everything once on tiny photos, also
on a CPU.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from deeplab.config import ASPPConfig, DecoderConfig, DeepLabConfig, backbone_config
from deeplab.importers import import_weights
from deeplab.model.cost import cost
from deeplab.model.network import DeepLab
from deeplab.prediction.fold import for_inference
from deeplab.prediction.inference import predict_labels
from deeplab.train.loop import batch_loss

CLASSES = 21
BACKBONES = ("resnet50", "resnet101", "xception_65", "mobilenet_v2")
TORCHVISION = ("resnet50", "resnet101")
LEAST_EQUAL = 0.999
WAYS = ("eager float32", "channels-last float32", "channels-last bf16", "compiled bf16")


class Task(NamedTuple):
    """What is done to photos of a size; `batch` is halved until it fits."""

    kind: str
    height: int
    width: int
    batch: int

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.kind} {self.height}x{self.width}"


class Subject(NamedTuple):
    """A network and who runs it."""

    name: str
    owner: str
    build: Callable[[], nn.Module]
    config: DeepLabConfig

    def multiply_adds(self, task: Task) -> int:
        """Of one photo."""
        return cost(self.config, (task.height, task.width)).multiply_adds


class Way(NamedTuple):
    """How a network is run."""

    name: str

    @property
    def layout(self) -> torch.memory_format:
        return torch.contiguous_format if self.name.startswith("eager") else torch.channels_last

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.name.endswith("bf16") else torch.float32

    @property
    def compiled(self) -> bool:
        return self.name.startswith("compiled")


TASKS = (
    Task("training", 513, 513, 16),
    Task("training", 769, 769, 8),
    Task("inference", 513, 513, 16),
    Task("inference", 513, 513, 1),
    Task("inference", 1025, 2049, 1),
)
SMOKE = (Task("training", 65, 65, 2), Task("inference", 65, 65, 2), Task("inference", 65, 129, 1))


def main() -> None:
    """See the module."""
    options = _options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.smoke:
        raise SystemExit("no CUDA GPU here; --smoke runs on a CPU")
    # both sides: it is what people train with, and float32 rows say so
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    peaks = {
        str(dtype): matmul_peak(device, dtype, small=options.smoke)
        for dtype in (torch.float32, torch.bfloat16)
    }
    content: dict[str, Any] = {"about": about(device), "matmul_tflops": peaks, "rows": [], "left_out": []}
    print(json.dumps({name: content[name] for name in ("about", "matmul_tflops")}), flush=True)
    ends = time.monotonic() + 60 * options.minutes
    for task, subject, way in every_row(options):
        name = f"{task.name} batch {task.batch}, {way.name}, {subject.owner} {subject.name}"
        if not fnmatch.fnmatch(name, options.only):
            continue
        if time.monotonic() > ends:
            content["left_out"].append(name)
            continue
        row = {"name": name, **measured(task, subject, way, device, options)}
        if "photos_per_second" in row:
            rate = (
                2e-12
                * row["photos_per_second"]
                * subject.multiply_adds(task)
                * (3 if task.kind == "training" else 1)
            )
            row |= {"tflops": rate, "share_of_matmul": rate / peaks[str(way.dtype)]}
        content["rows"].append(row)
        print(json.dumps(row), flush=True)
        write(options.output, content)
    write(options.output, content)
    print(table(content))


def every_row(options: argparse.Namespace) -> Iterator[tuple[Task, Subject, Way]]:
    """The most telling first: the same network on both sides, the fastest way, then the rest."""
    ways = [Way(name) for name in reversed(WAYS)]
    tasks = SMOKE if options.smoke else TASKS
    same, own = subjects(smoke=options.smoke)
    yield from ((task, subject, way) for way in ways for task in tasks for subject in same)
    yield from ((task, subject, way) for way in ways for task in tasks for subject in own)


def subjects(*, smoke: bool) -> tuple[list[Subject], list[Subject]]:
    """Networks that both sides have, and v3+, which torchvision has not."""
    same = []
    for backbone in TORCHVISION[: 1 if smoke else None]:
        theirs = torchvision_network(backbone)
        if theirs is not None:
            ours = imported(theirs)
            check_equal(theirs, ours, backbone)
            for owner, model in (("torchvision", theirs), ("ours", ours)):
                same.append(
                    Subject(f"v3 {backbone}", owner, lambda model=model: copy.deepcopy(model), ours.config)
                )
    own = [
        Subject(f"v3+ {backbone}", "ours", lambda config=config: DeepLab(config), config)
        for backbone, config in ((name, v3plus(name)) for name in BACKBONES[-1 if smoke else 0 :])
    ]
    return same, own


def v3plus(backbone: str) -> DeepLabConfig:
    """v3+ at output stride 16 (arXiv 1802.02611): atrous separable ASPP and decoder."""
    return DeepLabConfig(
        backbone=backbone_config(backbone),
        context=ASPPConfig(rates=(6, 12, 18), separable=True),
        decoder=DecoderConfig(),
        num_classes=CLASSES,
    )


def torchvision_network(backbone: str) -> nn.Module | None:
    """torchvision's DeepLabv3, or None, said once, where it cannot be imported."""
    try:
        from torchvision.models import segmentation
    except Exception as error:  # broken wheels raise more than ImportError
        print(f"without torchvision: {type(error).__name__}: {str(error)[:200]}", flush=True)
        return None
    torch.manual_seed(0)
    build = getattr(segmentation, f"deeplabv3_{backbone}")
    return build(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=False)


def imported(theirs: nn.Module) -> DeepLab:
    """The same network and weights in this package."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(theirs.state_dict(), path)
        return import_weights(path).model


def check_equal(theirs: nn.Module, ours: DeepLab, name: str) -> None:
    """Labels of both, in float32 on the CPU.

    Raises:
        SystemExit: they differ: nothing is timed.
    """
    images = torch.randint(
        0, 256, (1, 3, 129, 97), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    theirs.eval(), ours.eval()
    with torch.inference_mode():
        expected = theirs((images - ours.pixel_mean) / ours.pixel_std)["out"].argmax(1)
        share = (predict_labels(ours, images)["semantic"] == expected).float().mean().item()
    print(f"{name}: {share:.4%} of labels equal in float32 (at least {LEAST_EQUAL:.1%})", flush=True)
    if share < LEAST_EQUAL:
        raise SystemExit(f"{name}: labels differ, nothing is timed")


def measured(
    task: Task, subject: Subject, way: Way, device: torch.device, options: argparse.Namespace
) -> dict[str, Any]:
    """Photos a second and peak memory in MB; or what went wrong."""
    batch = task.batch
    while True:
        try:
            return {"batch": batch, **attempt(task._replace(batch=batch), subject, way, device, options)}
        except torch.OutOfMemoryError:
            if batch == 1:
                return {"failed": "does not fit into the card's memory"}
            batch //= 2
        except Exception as error:  # one row's failure must not end a run that takes minutes
            return {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        finally:
            torch.compiler.reset()
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()


def attempt(
    task: Task, subject: Subject, way: Way, device: torch.device, options: argparse.Namespace
) -> dict[str, Any]:
    """One row at a batch size that may not fit."""
    model = subject.build().to(device, memory_format=way.layout)
    images = torch.randint(0, 256, (task.batch, 3, task.height, task.width), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=way.layout)
    make = training_step if task.kind == "training" else inference
    began = time.monotonic()
    run = make(model, images, subject.owner, way)
    for _ in range(1 if options.smoke else 3):
        run()
    synchronise(device)
    prepared = time.monotonic() - began
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = median_seconds(run, device, seconds=0.0 if options.smoke else options.seconds)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0
    return {"photos_per_second": task.batch / seconds, "peak_mb": peak, "first_calls_seconds": prepared}


def training_step(model: nn.Module, images: torch.Tensor, owner: str, way: Way) -> Callable[[], Any]:
    """Forward, loss, backward, update."""
    model.train()
    generator = torch.Generator(images.device).manual_seed(0)
    shape = (len(images), *images.shape[-2:])
    labels = torch.randint(0, CLASSES, shape, dtype=torch.uint8, device=images.device, generator=generator)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=4e-5)
    loss = _our_loss(model, way) if owner == "ours" else _their_loss(model, way)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss(images, labels).backward()
        optimiser.step()

    return step


def _our_loss(model: nn.Module, way: Way) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    network = torch.compile(model.pyramid_logits) if way.compiled else model.pyramid_logits
    return lambda images, labels: batch_loss(model, images, labels, precision=way.dtype, network=network)


def _their_loss(model: nn.Module, way: Way) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    network = torch.compile(model) if way.compiled else model

    def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, way.dtype, enabled=way.dtype != torch.float32):
            logits = network(_normalised(images))["out"]
        return cross_entropy(logits.float(), labels.long(), ignore_index=255)

    return loss


def inference(model: nn.Module, images: torch.Tensor, owner: str, way: Way) -> Callable[[], Any]:
    """uint8 photos to label maps, both on the card."""
    if owner == "ours":
        precision = "bfloat16" if way.dtype == torch.bfloat16 else "float32"
        ready = for_inference(model, device=images.device, precision=precision)
        if way.compiled:
            ready.low_resolution_logits = torch.compile(ready.low_resolution_logits)
        return lambda: predict_labels(ready, images)["semantic"]
    network = torch.compile(model.eval()) if way.compiled else model.eval()

    def run() -> torch.Tensor:
        with (
            torch.inference_mode(),
            torch.autocast(images.device.type, way.dtype, enabled=way.dtype != torch.float32),
        ):
            return network(_normalised(images))["out"].argmax(1).to(torch.uint8)

    return run


def _normalised(images: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor((0.485, 0.456, 0.406), device=images.device).view(-1, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225), device=images.device).view(-1, 1, 1)
    return (images / 255 - mean) / std


def median_seconds(run: Callable[[], Any], device: torch.device, *, seconds: float) -> float:
    """Of one call, over calls that take at least `seconds` together and are at least three."""
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        synchronise(device)
        began = time.perf_counter()
        run()
        synchronise(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def synchronise(device: torch.device) -> None:
    """Wait until the card has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def matmul_peak(device: torch.device, dtype: torch.dtype, *, small: bool) -> float:
    """TFLOP/s of the best of some large square products, float32 with TF32."""
    best = 0.0
    for side in (256,) if small else (4096, 8192, 16384):
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        for _ in range(3):
            left @ right
        seconds = median_seconds(
            lambda left=left, right=right: left @ right, device, seconds=0.0 if small else 0.5
        )
        best = max(best, 2e-12 * side**3 / seconds)
    return best


def about(device: torch.device) -> dict[str, Any]:
    """Card and versions."""
    card = torch.cuda.get_device_name() if device.type == "cuda" else "none"
    found = {"card": card, "torch": torch.__version__, "cuda": torch.version.cuda}
    if device.type == "cuda":
        found |= {"memory_gb": torch.cuda.get_device_properties(0).total_memory / 2**30}
        found |= {"cudnn": torch.backends.cudnn.version()}
    return found


def table(content: dict[str, Any]) -> str:
    """Markdown, with ratios to torchvision's row of the same name."""
    rows = {row["name"]: row for row in content["rows"]}
    lines = [
        "| row | photos/s | times torchvision | peak MB | share of matmul |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        if "failed" in row:
            lines.append(f"| {name} | {row['failed'][:80]} | | | |")
            continue
        theirs = rows.get(name.replace(", ours ", ", torchvision "), {}).get("photos_per_second")
        ratio = f"{row['photos_per_second'] / theirs:.2f}x" if theirs else ""
        speed, share = row["photos_per_second"], row["share_of_matmul"]
        lines.append(f"| {name} | {speed:.1f} | {ratio} | {row['peak_mb']:.0f} | {share:.1%} |")
    left_out = content["left_out"]
    return "\n".join([*lines, *([f"left out for lack of time: {len(left_out)} rows"] if left_out else [])])


def write(path: Path, content: dict[str, Any]) -> None:
    """All that is known so far."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(beside, path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9, help="no row is begun after these")
    parser.add_argument("--seconds", type=float, default=1.5, help="of timing a row")
    parser.add_argument("--only", default="*", help="names of rows, such as 'inference*compiled*'")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--smoke", action="store_true", help="tiny photos, everything once, also on a CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
