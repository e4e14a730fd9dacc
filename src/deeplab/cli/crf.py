"""`deeplab crf`: parameters of the fully connected CRF for a model (v1 section 5.1, v2 section 4.1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from deeplab.cli.labelling import USUAL, Runtime, labelling
from deeplab.cli.stored_data import RECOGNISED, StoredData
from deeplab.cli.whole_numbers import ARGUMENTS, PARAMETERS
from deeplab.errors import UserError, refuse_outside
from deeplab.system.writing import write_whole

if TYPE_CHECKING:
    from deeplab.crf.config import SearchRanges
    from deeplab.crf.search import Trial
    from deeplab.evaluation.held_out import HeldOut
    from deeplab.prediction.labelling import Labelling

crf = App(
    name="crf",
    help="Find parameters of the fully connected CRF for a model.",
    help_format="markdown",
    group_arguments=ARGUMENTS,
    group_parameters=PARAMETERS,
)


@crf.command
def search(
    root: Path,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "animals",
    split: str = "val",
    stored: StoredData = RECOGNISED,
    photos: int = 100,
    seed: int = 0,
    grid: int = 3,
    rounds: int = 2,
    w1: tuple[float, float] = (3.0, 6.0),
    sigma_alpha: tuple[float, float] = (30.0, 100.0),
    sigma_beta: tuple[float, float] = (3.0, 6.0),
    runtime: Runtime = USUAL,
) -> None:
    """Find w1, sigma-alpha and sigma-beta on held-out photos, coarse to fine; w2 = 3 and sigma-gamma = 3 stay.

    Each of up to ROUNDS * GRID^3 sets of parameters runs the CRF on all photos: with the defaults 53, some
    0.2 to 0.5 seconds a photo of 500 x 375 on two cores.

    Parameters
    ----------
    root:
        The data set's folder.
    output:
        JSON file for predict --crf and eval --crf, with a record of the search.
    model:
        An embedded model's name, a folder made by train or import, a .safetensors file, or hf:owner/name.
    split:
        Where the photos are taken from.
    photos:
        How many, drawn at random.
    seed:
        Of the draw.
    grid:
        Values of each parameter in a round.
    rounds:
        The first covers the ranges, each further one half a grid step around the best.
    w1:
        Lowest and highest weight of the appearance term.
    sigma_alpha:
        Its reach in pixels, lowest and highest.
    sigma_beta:
        Its reach in colour values, lowest and highest.
    """
    from deeplab.crf.config import SearchRanges
    from deeplab.crf.search import at_an_edge, best_of, checked_box
    from deeplab.system.memory import keep_freed_memory

    refuse_outside(1, 1_000_000, __photos=photos)
    refuse_outside(0, (1 << 63) - 1, __seed=seed)
    refuse_outside(1, 32, __grid=grid, __rounds=rounds)
    if not output.parent.is_dir():
        raise UserError(f"folder {output.parent} of -o does not exist; make it, or give another")
    ranges = SearchRanges(w1, sigma_alpha, sigma_beta)
    checked_box(ranges, grid, rounds)
    keep_freed_memory()
    held, names = _held_out(root, model, split, stored, photos=photos, seed=seed, how=labelling(runtime))
    without = held.mean_iou(None)
    trials = _tried(held, ranges, grid=grid, rounds=rounds, photos=len(names))
    best = best_of(trials)
    _show(trials, best, without=without)
    for name, value in at_an_edge(best.parameters, ranges).items():
        option = f"--{name.replace('_', '-')}"
        print(f"{name} {value:g} is at the edge of its range: better values may lie beyond, see {option}")
    settings = {
        "model": model,
        "data": str(root),
        "split": split,
        "output stride": held.output_stride,
        "seed": seed,
        "ranges": ranges._asdict(),
        "grid": grid,
        "rounds": rounds,
        "mean IoU without CRF": without,
    }
    record = _record(trials, best, settings=settings, photos=names)
    write_whole(output, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {output}: give it to predict --crf or eval --crf")


def _held_out(
    root: Path,
    model: str,
    split: str,
    stored: StoredData,
    *,
    photos: int,
    seed: int,
    how: Labelling,
) -> tuple[HeldOut, list[str]]:
    """The network's answers on the chosen photos, and their names."""
    from deeplab.cli.evaluate import open_labelled
    from deeplab.cli.tables import photo_progress
    from deeplab.evaluation.held_out import HeldOut, choose_photos
    from deeplab.prediction.artefacts import open_predictor

    predictor = open_predictor(model, how)
    if predictor.network.config.pixels.bands:
        raise UserError("the CRF is searched on 8-bit RGB photos, and this model reads bands", file=model)
    dataset = open_labelled(root, split, stored, predictor.labels)
    chosen = choose_photos(len(dataset), photos=photos, seed=seed)
    with photo_progress(len(chosen), "network") as progress:
        held = HeldOut(predictor, dataset, chosen=chosen, on_photo=progress.advance)
    return held, [dataset.source.name(index) for index in chosen]


def _tried(held: HeldOut, ranges: SearchRanges, *, grid: int, rounds: int, photos: int) -> list[Trial]:
    from deeplab.cli.tables import photo_progress
    from deeplab.crf.search import coarse_to_fine

    with photo_progress(rounds * grid**3 * photos, "CRF") as progress:
        return coarse_to_fine(
            lambda parameters: held.mean_iou(parameters, on_photo=progress.advance),
            ranges=ranges,
            grid=grid,
            rounds=rounds,
            on_trial=lambda trial: progress.line(f"{trial.parameters}: mean IoU {trial.mean_iou:.4f}"),
        )


def _show(trials: list[Trial], best: Trial, *, without: float) -> None:
    from rich.table import Table

    from deeplab.cli.tables import print_table

    table = Table("round", "w1", "sigma alpha", "sigma beta", "mean IoU")
    for each in trials:
        held = each.parameters
        values = (held.w1, held.sigma_alpha, held.sigma_beta)
        shown = [str(each.round), *(f"{value:g}" for value in values), f"{each.mean_iou:.4f}"]
        table.add_row(*shown, style="bold" if each is best else None)
    print_table(table)
    print(f"best: {best.parameters}; mean IoU {best.mean_iou:.4f}, without CRF {without:.4f}")
    if best.mean_iou <= without:
        print("nothing that was tried improves this model on these photos")


def _record(
    trials: list[Trial], best: Trial, *, settings: dict[str, Any], photos: list[str]
) -> dict[str, Any]:
    tried = [
        {"round": each.round, **each.parameters.model_dump(), "mean IoU": each.mean_iou} for each in trials
    ]
    search = {**settings, "mean IoU": best.mean_iou, "tried": tried, "photos": photos}
    return {"parameters": best.parameters.model_dump(), "search": search}
