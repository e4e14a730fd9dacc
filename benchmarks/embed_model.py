"""Turn a finished training run into the embedded default model, with a model card of measured numbers.

    python benchmarks/embed_model.py runs/animals-whole --data ../shared/assets/voc_animals

Stores the weights as float16, evaluates *those* on the recipe's validation split, and writes
`src/deeplab/models/NAME/{model.safetensors,config.json,README.md}`.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch

from deeplab.allocator import keep_freed_memory
from deeplab.checkpoint import load, save
from deeplab.evaluation import evaluate
from deeplab.metrics import ConfusionMatrix
from deeplab.train.recipe import Recipe
from deeplab.train.run import open_split, photos_and_labels

MODELS = Path(__file__).parent.parent / "src" / "deeplab" / "models"
SETTINGS = {
    "output stride 16": {"output_stride": 16},
    "output stride 8": {"output_stride": 8},
    "output stride 16, scales 0.75 1 1.25, flip": {
        "output_stride": 16,
        "scales": (0.75, 1.0, 1.25),
        "flip": True,
    },
}

CARD = """# {name}: the embedded default model

DeepLabv3+ on MobileNetV2: {classes}. {parameters:,} parameters, stored as float16 ({size:.1f} MB).

**It is right on** cats, cows, dogs, horses, sheep and people in ordinary photographs. **It is wrong on** everything
else: other animals become the nearest of these or background, and furniture, vehicles, birds and plants
are background. It has seen {photos:,} photographs, most of them with cats and dogs.

## Numbers
PASCAL VOC 2012, animal subset, validation list `{split}` ({val_photos} photos), full resolution, by
`deeplab eval DATA --model {name}`; classes that the model does not have count as background, void is
ignored. This is not "VOC mean IoU": it is the animal subset with {count} classes.

{table}

Measured on {machine}, Python {python}, torch {torch_version}.

## How it was made
    deeplab train recipes/animals.yaml data.root=DATA --output runs/animals
    deeplab train recipes/animals-whole.yaml data.root=DATA --output runs/animals-whole
    python benchmarks/embed_model.py runs/animals-whole --data DATA

{stages}

The times are of a machine that was busy with other work. The second stage shows whole photos: after the first,
trained on small crops only, photos at full size scored {first_score} where the final model scores {final_score}
(output stride 16). The recipes with every resolved value, and the versions, are in `config.json`
under `provenance`. bfloat16 arithmetic differs between processors, so another machine gives other last digits.

## Data and terms
- Photos and masks: PASCAL VOC 2012 with SBD's augmented masks, the photos that show animals. The photos come from
  Flickr and are for research use under Flickr's terms; none is contained here.
- Starting weights: {terms} (sha256 {start_sha}).
- These weights: Apache-2.0 as the project, as far as the terms of the data allow.
"""


def scores(model, recipe: Recipe, options: dict) -> ConfusionMatrix:
    """Evaluate at one setting."""
    model.output_stride = options["output_stride"]
    samples = photos_and_labels(open_split(recipe.data, recipe.data.val))
    return evaluate(model, samples, scales=options.get("scales", (1.0,)), flip=options.get("flip", False))


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
    arguments = parser.parse_args()
    keep_freed_memory()
    record = json.loads((arguments.run / "run.json").read_text())
    values = json.loads((arguments.run / "recipe.json").read_text())
    values["data"]["root"] = str(arguments.data)
    recipe = Recipe.model_validate(values)
    folder = MODELS / recipe.name
    weights = save(load(arguments.run), folder, dtype=torch.float16)
    model = load(folder).to(memory_format=torch.channels_last)
    results = {name: scores(model, recipe, options) for name, options in SETTINGS.items()}
    first = record["start"]["provenance"]
    card = CARD.format(
        name=recipe.name,
        classes=", ".join(recipe.data.classes),
        count=len(recipe.data.classes),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        size=weights.stat().st_size / 1e6,
        photos=record["training photos"],
        split=recipe.data.val,
        val_photos=len(open_split(recipe.data, recipe.data.val)),
        table=table(results, recipe.data.classes),
        machine=processor(),
        python=platform.python_version(),
        torch_version=torch.__version__,
        stages="\n".join([stage(first), stage(record)]),
        first_score=first["validation"]["mean IoU"],
        final_score=record["validation"]["mean IoU"],
        terms=first["start"]["terms"],
        start_sha=first["start"]["sha256"][:16],
    )
    (folder / "README.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
