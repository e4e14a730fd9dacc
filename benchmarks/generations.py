"""All four generations of DeepLab by one recipe family, as one table.

    python benchmarks/generations.py DATA [key=value ...] --runs runs/generations [--only v3-mobilenet ...]
    python benchmarks/generations.py DATA --runs runs/generations --table

Every row is `deeplab train street`, or --recipe, with the overrides in ROWS, so data, augmentation, number
of steps and learning-rate policy are the same and the model is what differs; further key=value words go to every row
(on a GPU: optimise.batch_size=16 optimise.steps=6000, and --device cuda). A run that is there is not repeated. The
table is made from the runs' own records, and says where each row's weights started from; photos a second and the share
of the time spent waiting for data are medians over the steps.
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


def run(name: str, recipe: str, data: Path, folder: Path, *, device: str, further: list[str]) -> None:
    """Train one row, or finish it."""
    words = [f"name={name}", f"data.root={data}", *ROWS[name], *further]
    command = [sys.executable, "-m", "deeplab", "train", recipe, *words]
    command += ["--output", str(folder), "--device", device, *(["--resume"] if folder.exists() else [])]
    subprocess.run(command, check=True)


def table(runs: Path) -> str:
    """Markdown: a line a finished run."""
    lines = [
        "| row | starting weights | output stride | steps x batch | mean IoU | pixel accuracy "
        "| photos/s | waiting for data |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in ROWS:
        path = runs / name / "run.json"
        if not path.is_file():
            continue
        record = json.loads(path.read_text())
        recipe, result = record["recipe"], record["validation"]
        settings = recipe["optimise"]
        log = [json.loads(line) for line in (path.parent / "log.jsonl").read_text().splitlines()]
        steps = [line for line in log if "images_per_second" in line]
        speed = statistics.median(line["images_per_second"] for line in steps)
        waited = statistics.median(line["data_wait"] for line in steps)
        lines.append(
            f"| {name} | {recipe['start'] or 'random'} | {recipe['model']['output_stride']} "
            f"| {settings['steps']} x {settings['batch_size']} | {100 * result['mean IoU']:.1f} "
            f"| {100 * result['pixel accuracy']:.1f} "
            f"| {speed:.1f} | {100 * waited:.1f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("further", nargs="*", help="key=value for every row")
    parser.add_argument("--recipe", default="street", help="of v3+ on MobileNetV2")
    parser.add_argument("--runs", type=Path, default=Path("runs/generations"))
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="print the table of finished runs and stop")
    arguments = parser.parse_args()
    if not arguments.table:
        for name in arguments.only:
            if not (arguments.runs / name / "run.json").is_file():
                run(
                    name,
                    arguments.recipe,
                    arguments.data,
                    arguments.runs / name,
                    device=arguments.device,
                    further=arguments.further,
                )
    print(table(arguments.runs))


if __name__ == "__main__":
    main()
