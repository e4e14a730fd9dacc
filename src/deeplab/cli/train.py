"""`deeplab train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def train(
    recipe: str,
    *overrides: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    device: str = "auto",
    resume: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    tensorboard: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Train a model by a recipe and measure it on the validation split.

    On several GPUs or machines: torchrun --nproc-per-node 4 -m deeplab train RECIPE -o DIR

    Parameters
    ----------
    recipe:
        A name that deeplab recipes lists, or a YAML file: a path that ends in .yaml or has a slash.
    overrides:
        Single keys, as key.sub=value: data.root=/photos optimise.steps=100.
    output:
        Folder for the model, the log and the record of the run.
    device:
        auto, cpu, cuda, cuda:1, mps. With torchrun, cuda gives each process its own GPU.
    resume:
        Go on with the run in the output folder after its last checkpoint, as if it had never stopped; start
        one if there is none.
    overwrite:
        Start anew in a folder that holds a run; its checkpoints, model and record are lost.
    tensorboard:
        Also write the folder tensorboard/ (extra `tensorboard`).
    """
    from deeplab.cli.tables import print_scores
    from deeplab.cli.training_display import training_display
    from deeplab.data.opening import resolve
    from deeplab.system.processes import is_main_process, own_device
    from deeplab.train.recipe import read_recipe
    from deeplab.train.run import train as run

    device = own_device(device)
    plan = read_recipe(recipe, overrides)
    plan = plan.model_copy(update={"data": resolve(plan.data)})
    options = {"device": device, "resume": resume, "overwrite": overwrite, "tensorboard": tensorboard}
    if not is_main_process():
        run(plan, output, **options)
        return
    with training_display(plan.optimise.steps, device=device) as watcher:
        confusion = run(plan, output, watcher=watcher, **options)
    print_scores(confusion, plan.data.classes, title=f"{plan.name}, {plan.data.val}")
    print(f"model: {output}")
