"""`deeplab train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def train(
    recipe: Path,
    *overrides: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    device: str = "cpu",
) -> None:
    """Train a model by a recipe and measure it on the validation split.

    Parameters
    ----------
    recipe:
        A YAML file, see recipes/.
    overrides:
        Single keys, as key.sub=value: data.root=/photos optimise.steps=100.
    output:
        Folder for the model, the log and the record of the run.
    device:
        cpu, cuda, cuda:1, mps.
    """
    from deeplab.cli.tables import print_scores, step_progress
    from deeplab.train.recipe import read_recipe
    from deeplab.train.run import Watcher
    from deeplab.train.run import train as run

    plan = read_recipe(recipe, overrides)
    with step_progress(plan.optimise.steps) as (on_step, on_photo):
        confusion = run(plan, output, device=device, watcher=Watcher(on_step, on_photo))
    print_scores(confusion, plan.data.classes, title=f"{plan.name}, {plan.data.val}")
    print(f"model: {output}")
