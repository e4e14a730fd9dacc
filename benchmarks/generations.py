"""All four generations of DeepLab by one recipe family, as one table.

    python benchmarks/generations.py DATA [key=value ...] --runs runs/generations [--only v3-mobilenet ...]
    python benchmarks/generations.py DATA --runs runs/generations --seeds 1 2 3
    python benchmarks/generations.py DATA --runs runs/generations --table

Every row is `deeplab train street`, or --recipe, with the overrides in ROWS, so data, augmentation, number
of steps and learning-rate policy are the same and the model is what differs; further key=value words go to every row
(on a GPU: optimise.batch_size=16 optimise.steps=6000, and --device cuda). A run that is there is not repeated. The
table is made from the runs' own records, and says where each row's weights started from; photos a second are medians
over the steps. With seeds, each is a run of its own, all rows of one seed before the next; the table gives their mean,
and the mean of what each seed gained over the row above, with the 95 % intervals that Student's t makes of so few.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

MOBILENET = ("start=imagenet-mobilenet-v2",)
VGG = (
    "start=imagenet-vgg16",
    "model.backbone={name: vgg16, padding: caffe}",
    "model.pixels={mean: [103.939, 116.779, 123.68], std: [1, 1, 1], channels: bgr}",
    "model.output_stride=8",
    # VGG-16 has no norms: the papers' rate (v1 section 4.1, v2 section 4.1), and the head's ten times that
    "optimise.learning_rate=0.001",
    "optimise.head_multiplier=10",
    "optimise.weight_decay=0.0005",
)
RESNET = (
    "start=null",
    "model.backbone={name: resnet50, padding: symmetric, strides_at: first, "
    "norm: {eps: 1.0e-5, momentum: 0.01}}",
    "optimise.head_multiplier=1",
    "optimise.learning_rate=0.05",
)
NO_DECODER = "model.decoder=null"
# rates as the papers state them at output stride 8; the rows at 16 have half of them
# v2's forms for networks without fully connected layers (table 4): one atrous classifier, or the sum of four
ATROUS_CLASSIFIER = ("model.context={kind: none}", "model.classifier_kernel=3", NO_DECODER)
LARGE_FOV = (*ATROUS_CLASSIFIER, "model.classifier_rates=[6]")
BRANCHES = (*ATROUS_CLASSIFIER, "model.classifier_rates=[3, 6, 9, 12]")
# the recipe's own ASPP, with plain convolutions
ASPP = ("model.context.separable=false", NO_DECODER)
DECODER: tuple[str, ...] = ()

ROWS: dict[str, tuple[str, ...]] = {
    "v1-vgg16": (
        *VGG,
        "model.context={kind: fc, rates: [12], channels: 1024, dropout: 0.5, smooth: true}",
        NO_DECODER,
    ),
    "v2-vgg16": (
        *VGG,
        "model.context={kind: fc, rates: [6, 12, 18, 24], channels: 1024, dropout: 0.5}",
        NO_DECODER,
    ),
    "v1-mobilenet": (*MOBILENET, *LARGE_FOV),
    "v2-mobilenet": (*MOBILENET, *BRANCHES),
    "v3-mobilenet": (*MOBILENET, *ASPP),
    "v3plus-mobilenet": (*MOBILENET, *DECODER),
    "v2-resnet50": (*RESNET, *BRANCHES),
    "v3-resnet50": (*RESNET, *ASPP),
    "v3plus-resnet50": (*RESNET, *DECODER),
}


# Student's t, 97.5 %, by the number of runs
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}


def run(name: str, arguments: argparse.Namespace, seed: int | None) -> None:
    """Train one row, or finish it."""
    folder = arguments.runs / (name if seed is None else f"{name}-{seed}")
    if (folder / "run.json").is_file():
        return
    words = [f"name={name}", f"data.root={arguments.data}", *ROWS[name], *arguments.further]
    words += [] if seed is None else [f"seed={seed}"]
    command = [sys.executable, "-m", "deeplab", "train", arguments.recipe, *words]
    command += [
        "--output",
        str(folder),
        "--device",
        arguments.device,
        *(["--resume"] if folder.exists() else []),
    ]
    subprocess.run(command, check=True)


def table(runs: Path) -> str:
    """Markdown: a line for the finished runs of a row."""
    lines = [
        "| row | starting weights | output stride | steps x batch "
        "| mean IoU | of each seed | over the row above | pixel accuracy | photos/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    # by backbone and seed
    above: dict[tuple[str, int], float] = {}
    for name in ROWS:
        paths = sorted([*runs.glob(f"{name}/run.json"), *runs.glob(f"{name}-[0-9]*/run.json")])
        if not paths:
            continue
        records = [json.loads(path.read_text()) for path in paths]
        recipe, settings = records[0]["recipe"], records[0]["recipe"]["optimise"]
        scores = [100 * record["validation"]["mean IoU"] for record in records]
        backbone = name.partition("-")[2]
        own = {
            (backbone, record["recipe"]["seed"]): score for record, score in zip(records, scores, strict=True)
        }
        gained = [score - above[key] for key, score in own.items() if key in above]
        above = own
        right = [100 * record["validation"]["pixel accuracy"] for record in records]
        log = [json.loads(line) for path in paths for line in (path.parent / "log.jsonl").open()]
        speed = statistics.median(line["images_per_second"] for line in log if "images_per_second" in line)
        lines.append(
            f"| {name} | {recipe['start'] or 'random'} | {recipe['model']['output_stride']} "
            f"| {settings['steps']} x {settings['batch_size']} | {with_interval(scores)} "
            f"| {', '.join(f'{score:.1f}' for score in scores)} | {with_interval(gained)} "
            f"| {statistics.mean(right):.1f} | {speed:.1f} |"
        )
    return "\n".join(lines)


def with_interval(values: list[float]) -> str:
    """The mean of what the seeds gave, and half of its 95 % interval."""
    if not values:
        return ""
    wide = ""
    if len(values) in STUDENT:
        wide = f" ± {STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5:.1f}"
    return f"{statistics.mean(values):.1f}{wide}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("further", nargs="*", help="key=value for every row")
    parser.add_argument("--recipe", default="street", help="of v3+ on MobileNetV2")
    parser.add_argument("--runs", type=Path, default=Path("runs/generations"))
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[None], help="the recipe's own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="print the table of finished runs and stop")
    arguments = parser.parse_args()
    if not arguments.table:
        for seed in arguments.seeds:
            for name in arguments.only:
                run(name, arguments, seed)
    print(table(arguments.runs))


if __name__ == "__main__":
    main()
