"""Turn a finished training run into an embedded model, with a model card of measured numbers.

    python benchmarks/embed_model.py runs/animals --data DATA
    python benchmarks/embed_model.py runs/street-fine --held-out runs/drive-fine --data OTHER_DRIVE

Stores the weights as float16, evaluates *those* on the recipe's validation split, and writes
`src/deeplab/models/NAME/{model.safetensors,config.json,README.md}`. A model that has seen all labelled photos is
measured by another run of its recipe, which has not seen the validation split of DATA: `--held-out`.
"""

from __future__ import annotations

import argparse
import json
import platform
import textwrap
from pathlib import Path
from typing import NamedTuple

import torch

from deeplab.data.opening import open_split
from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.evaluation.photo_by_photo import evaluate
from deeplab.model.checkpoint import load, save
from deeplab.model.network import DeepLab
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.system.memory import keep_freed_memory
from deeplab.train.recipe import Recipe
from deeplab.train.validation import photos_and_labels

MODELS = Path(__file__).parent.parent / "src" / "deeplab" / "models"
# of docs/
WIDTH = 128


class About(NamedTuple):
    """What a card says that no measurement gives.

    Attributes:
        output_stride: at which it runs unless told otherwise, whatever it was trained at (v3 section 4.1).
        scale: the size at which it looks at every photo.
        scales: of the column with several.
    """

    right_on: str
    wrong_on: str
    benchmark: str
    commands: tuple[str, ...]
    remark: str
    terms: str
    output_stride: int
    scale: float
    scales: tuple[float, ...]


ABOUT = {
    "animals": About(
        right_on="cats, cows, dogs, horses, sheep and people in ordinary photographs",
        wrong_on="everything else: other animals become the nearest of these or background, and furniture, vehicles, "
        "birds and plants are background",
        benchmark="PASCAL VOC 2012, animal subset; classes that the model does not have count as background. "
        'This is not "VOC mean IoU": it is the animal subset.',
        commands=(
            "deeplab import deeplabv3_mnv2_pascal_quant.tflite -o models/voc-1.0",
            "deeplab import deeplabv3_257_mv_gpu.tflite -o models/voc-0.5",
            "deeplab train animals data.root=DATA -o runs/animals",
        ),
        remark="It was shown no photo of the list. Its two published relatives score 81.7 (its start) and 84.9 (its "
        "teacher) there ([table](../../../../docs/published.md)); the authors' own table has them the other way "
        "round, so the teacher has probably seen the list.",
        terms="PASCAL VOC 2012 with SBD's augmented masks, the photos that show animals. The photos come from "
        "Flickr and are for research use under Flickr's terms; none is contained here.",
        output_stride=8,
        scale=1.0,
        scales=(0.75, 1.0, 1.25),
    ),
    "street": About(
        right_on="streets seen from a car in daylight, as around Cambridge where its photographs were taken",
        wrong_on="everything else: it names only these classes, so a cat becomes something that stands in a street; "
        "thin poles, signs and fences are often missed",
        benchmark="The photos are CamVid's, of SegNet's split at 360x480. The literature's figures for this data set "
        "are of its test list, which is another one and was not looked at.",
        commands=(
            "deeplab train street data.root=OTHER_DRIVE seed=11 -o runs/drive    # val: the photos called 0006R0",
            "deeplab train street-fine data.root=OTHER_DRIVE seed=13 start=runs/drive -o runs/drive-fine",
            "deeplab train street data.root=ALL -o runs/street                   # train: all, of train and val",
            "deeplab train street-fine data.root=ALL -o runs/street-fine",
        ),
        remark="It was stopped and resumed several times.",
        terms="CamVid (Brostow, Fauqueur, Cipolla 2009), CC BY-NC 4.0: personal and research use. None of its "
        "photos is contained here; use these weights for the same purposes.",
        output_stride=16,
        scale=1.25,
        scales=(1.0, 1.5),
    ),
}

CARD = """# {name}: an embedded model

{network} on MobileNetV2: {classes}. {parameters:,} parameters, stored as float16 ({size:.1f} MB).

**It is right on** {about.right_on}. **It is wrong on** {about.wrong_on}.
It has seen {photos:,} photographs.

## Numbers
{judged}, full resolution, {count} classes, void ignored, by `deeplab eval`. {about.benchmark}

{table}

{default}
Measured on {machine}, Python {python}, torch {torch_version}.

## How it was made
{commands}
    python benchmarks/embed_model.py {words}

{stages}

The times are of a machine that was busy with other work. {remark}
The recipes with every resolved value, and the versions, are in `config.json` under `provenance`. bfloat16
arithmetic differs between processors, so another machine gives other last digits.

## Data and terms
- Photos and masks: {about.terms}
{origins}
- These weights: Apache-2.0 as the project, as far as the terms of the data allow.
"""


def wrapped(card: str) -> str:
    """The card with lines of prose as short as those of docs/; tables and commands stay."""
    lines = []
    for line in card.splitlines():
        prose = line and not line.startswith(("|", "    "))
        below = "  " * line.startswith("- ")
        lines += textwrap.wrap(line, WIDTH, subsequent_indent=below) if prose else [line]
    return "\n".join(lines) + "\n"


def restated(model: DeepLab, about: About) -> DeepLab:
    """The same network, with its config stated as it is to run."""
    config, context = model.config, model.config.context
    rates = tuple(rate * config.output_stride // about.output_stride for rate in context.rates)
    update = {
        "output_stride": about.output_stride,
        "context": context.model_copy(update={"rates": rates}),
        "image_pyramid": (about.scale,),
    }
    twin = DeepLab(config.model_copy(update=update), model.labels)
    twin.load_state_dict(model.state_dict())
    twin.provenance = model.provenance
    return twin.eval()


def settings(about: About) -> dict[str, dict]:
    """What the card's columns are measured at, the default first."""
    several = f"output stride 16, scales {' '.join(f'{scale:g}' for scale in about.scales)}, flip"
    strides = (8, 16) if about.output_stride == 8 else (16, 8)
    return {
        **{f"output stride {stride}": {"output_stride": stride} for stride in strides},
        several: {"output_stride": 16, "scales": about.scales, "flip": True},
    }


def default(about: About) -> str:
    """How it runs unless told otherwise."""
    if about.output_stride == 8:
        ours, other = "output stride 8", "`--output-stride 16` is faster"
    else:
        ours, other = "output stride 16", "`--output-stride 8` is denser and slower"
    looks = "" if about.scale == 1.0 else f" It looks at every photo at {about.scale:g} times its size."
    return f"The model runs at {ours} by default; {other}.{looks}"


def scores(model: DeepLab, recipe: Recipe, options: dict) -> ConfusionMatrix:
    """Evaluate at one setting."""
    samples = photos_and_labels(open_split(recipe.data, recipe.data.val))
    return evaluate(Predictor.of(model, Labelling(**options)), samples)


def table(results: dict[str, ConfusionMatrix], classes: tuple[str, ...]) -> str:
    """Markdown: a column a setting, a row a class."""
    lines = ["| class | " + " | ".join(results) + " |", "| --- |" + " --- |" * len(results)]
    for index, name in enumerate(classes):
        values = [f"{confusion.iou_per_class()[index]:.3f}" for confusion in results.values()]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    means = [f"**{confusion.mean_iou():.3f}**" for confusion in results.values()]
    accuracies = [f"{confusion.pixel_accuracy():.3f}" for confusion in results.values()]
    return "\n".join(
        [
            *lines,
            "| **mean IoU** | " + " | ".join(means) + " |",
            "| pixel accuracy | " + " | ".join(accuracies) + " |",
        ]
    )


def stage(record: dict) -> str:
    """One line on one training run."""
    recipe = record["recipe"]
    settings, crop = recipe["optimise"], "x".join(map(str, recipe["augment"]["crop"]))
    return (
        f"- seed {recipe['seed']}: {settings['steps']} steps of {settings['batch_size']} crops of {crop}, "
        f"learning rate {settings['learning_rate']}, {settings['precision']}; {record['training seconds']} seconds"
    )


def stages_of(record: dict) -> list[dict]:
    """The records of all training runs that led here, first to last."""
    earlier = record["start"].get("provenance", {})
    return [*stages_of(earlier), record] if "recipe" in earlier else [record]


def origins(first: dict, last: dict) -> str:
    """Where the weights began and who taught them, with terms and the files' hashes."""
    start = first["start"]
    if "terms" in start:
        lines = [f"- Starting weights: {start['terms']} (sha256 {start['sha256'][:16]})."]
    else:
        lines = [f"- Starting weights: {published(start['provenance'])}; the classifier began from nothing."]
    for teacher in last.get("taught by", ()):
        lines.append(
            f"- Teacher, of the training photos alone: {published(teacher['provenance'])}. {how_it_taught(last)}"
        )
    return "\n".join(lines)


def published(provenance: dict) -> str:
    """A published file in words."""
    held = provenance["import"]
    return f"{held['inferred']['class names'].removeprefix('known file: ')}, sha256 {held['sha256'][:16]}"


def how_it_taught(record: dict) -> str:
    """How it taught."""
    distil = record["recipe"]["distil"]
    scales, mirrored = (
        " ".join(f"{scale:g}" for scale in distil["scales"]),
        ", mirrored too" if distil["flip"] else "",
    )
    return (
        f"It saw them at output stride {distil['output_stride']}, scales {scales}{mirrored}; "
        f"weight {distil['weight']:g}, temperature {distil['temperature']:g}."
    )


def processor() -> str:
    """The processor's name and the number of cores used."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return f"{line.partition(': ')[2]}, {torch.get_num_threads()} cores"
    return f"{platform.processor()}, {torch.get_num_threads()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--held-out", type=Path, help="a run of the same recipe that is measured in its place"
    )
    arguments = parser.parse_args()
    keep_freed_memory()
    record, measured = (
        json.loads((run / "run.json").read_text())
        for run in (arguments.run, arguments.held_out or arguments.run)
    )
    values = record["recipe"] | {"data": record["recipe"]["data"] | {"root": str(arguments.data)}}
    recipe = Recipe.model_validate(values)
    folder = MODELS / recipe.name
    about = ABOUT[recipe.name]
    weights = save(restated(load(arguments.run), about), folder, dtype=torch.float16)
    model = load(folder).to(memory_format=torch.channels_last)
    if arguments.held_out:
        # rounded as the embedded one is
        rounded = restated(load(arguments.held_out), about).half().float()
        model = rounded.to(memory_format=torch.channels_last)
    records = stages_of(record)
    first = records[0]
    results = {name: scores(model, recipe, options) for name, options in settings(about).items()}
    val_photos = len(open_split(recipe.data, recipe.data.val))
    judged = f"Validation list `{recipe.data.val}` ({val_photos} photos)"
    if arguments.held_out:
        judged = (
            "It has seen every labelled photo but those of the test list. The same recipe with "
            f"{measured['training photos']} of its photos, on the {val_photos} of a drive that those do not show"
        )
    filled = CARD.format(
        name=recipe.name,
        about=about,
        network="DeepLabv3+" if recipe.model.decoder else "DeepLabv3",
        classes=", ".join(recipe.data.classes),
        count=len(recipe.data.classes),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        size=weights.stat().st_size / 1e6,
        photos=record["training photos"],
        judged=judged,
        default=default(about),
        table=table(results, recipe.data.classes),
        machine=processor(),
        python=platform.python_version(),
        torch_version=torch.__version__,
        commands="\n".join(f"    {command}" for command in about.commands),
        words=f"runs/{recipe.name}-fine --held-out runs/drive-fine --data OTHER_DRIVE"
        if arguments.held_out
        else f"runs/{recipe.name} --data DATA",
        stages="\n".join(map(stage, [*stages_of(measured), *records] if arguments.held_out else records)),
        remark=about.remark,
        origins=origins(first, record),
    )
    card = wrapped(filled)
    (folder / "README.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
