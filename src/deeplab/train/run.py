"""A training run: a recipe in, a folder with model, log, checkpoint and record out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.config.labels import LabelSpec
from deeplab.data.augment_recipe import train_transform, with_copy_paste
from deeplab.data.dataset import SegmentationDataset
from deeplab.data.first_look import look_at, warn_of_labels
from deeplab.data.opening import open_split, resolve
from deeplab.errors import UserError
from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.model.network import DeepLab
from deeplab.system.memory import keep_freed_memory
from deeplab.system.processes import World, from_main, join_processes, own_device
from deeplab.system.processor import has_bfloat16
from deeplab.system.writing import hold_folder
from deeplab.train.batches import UpdateSampler, load_batches
from deeplab.train.failures import explained, refuse_beyond_memory, save_batch
from deeplab.train.fake_quantising import fake_quantise
from deeplab.train.keeper import SILENT, Keeper, Watcher
from deeplab.train.learner import (
    IMITATED,
    Learner,
    announce_progress,
    go_on_from,
    make_learner,
    make_objective,
    settled,
)
from deeplab.train.loop import Batch, train_steps
from deeplab.train.norms import SETTLED_BY, measure_statistics, settle
from deeplab.train.random_state import seed_all
from deeplab.train.recipe import Recipe
from deeplab.train.recipe.optimise import OptimiseRecipe
from deeplab.train.recipe.schedule import scheduled_rate
from deeplab.train.run_folder.checkpointing import (
    CHECKPOINT_NAME,
    TrainingState,
    parse_checkpoint,
    refuse_changes,
)
from deeplab.train.run_folder.folder import claim_folder
from deeplab.train.run_folder.record import RECORD_NAME, data_fingerprint, describe_run, write_recipe
from deeplab.train.start import start_from
from deeplab.train.teaching import prepare_teachers
from deeplab.train.validation import validate

NAMES_SHOWN = 4


def train(
    recipe: Recipe,
    folder: Path,
    *,
    device: str = "auto",
    watcher: Watcher = SILENT,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
) -> ConfusionMatrix:
    """Train, validate and save into `folder`; in all processes that torchrun started, if it did.

    Writes `recipe.yaml` (resolved), `log.jsonl` (a line a step), `checkpoint.safetensors` and
    `checkpoint-before.safetensors`, the one before, with `model.safetensors` and `config.json` (every `save_every`
    steps and at the end), `best/` (the model of
    the best validation, with `validate_every`), `samples/` (with `samples_every`) and at the end `run.json`
    (what reproduces the run, with the result).

    Args:
        recipe: what to do.
        folder: made if missing.
        device: auto (a CUDA GPU if there is one), cpu, cuda, cuda:1, mps.
        watcher: told in the main process only.
        resume: go on from the folder's checkpoint, to the very weights of an unbroken run; start where there
            is none. A damaged checkpoint is refused, and the one before it used.
        overwrite: start anew in a folder that holds a run, which is lost.
        tensorboard: also write `tensorboard/` (extra `tensorboard`).

    Returns:
        the confusion matrix on the validation split.

    Raises:
        UserError: data, device, start weights or settings that are wrong, a folder with another run, a loss that
            is not finite, memory that ran out, or a process that was lost.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite loses it", fix="leave one of them out")
    keep_freed_memory()
    device = own_device(device)
    known = {"data": resolve(recipe.data), "optimise": settled(recipe.optimise, device)}
    recipe = recipe.model_copy(update=known)
    with ExitStack() as held, join_processes(device) as world, explained(recipe):
        own_watcher = watcher if world.is_main else SILENT

        def claim() -> tuple[bytes, list[str]] | None:
            held.enter_context(hold_folder(folder, "training into"))
            return claim_folder(folder, resume=resume, overwrite=overwrite)

        claimed = from_main(claim, world)
        state = None
        if claimed is not None:
            state = parse_checkpoint(claimed[0], str(folder / CHECKPOINT_NAME))
            for line in claimed[1]:
                own_watcher.on_news(line)
        return _train(recipe, folder, state, world=world, watcher=own_watcher, tensorboard=tensorboard)


def training_set(recipe: Recipe) -> SegmentationDataset:
    """The training split under the recipe's augmentation of single photos."""
    transform = train_transform(recipe.augment, classes=recipe.data.classes, pixels=recipe.model.pixels)
    return open_split(
        recipe.data,
        recipe.data.train,
        transform=transform,
        seed=recipe.seed,
        bands=recipe.model.pixels.read_as(),
    )


def _train(
    recipe: Recipe,
    folder: Path,
    state: TrainingState | None,
    *,
    world: World,
    watcher: Watcher,
    tensorboard: bool,
) -> ConfusionMatrix:
    refuse_beyond_memory(recipe, world)
    dataset = training_set(recipe)
    validation = open_split(recipe.data, recipe.data.val, bands=recipe.model.pixels.read_as())
    from_main(lambda: _look_first(recipe, dataset, validation, watcher), world)
    # what every checkpoint says beside its tensors
    kept: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "data": data_fingerprint(dataset.source),
    }
    kept |= {"started": None, "resumed": [], "extended": [], "best": None, "seconds": 0.0}
    if state:
        refuse_changes(state, kept["recipe"], kept["data"], str(folder))
        kept |= {key: state.values[key] for key in ("started", "resumed", "extended", "best", "seconds")}
        kept["resumed"].append(state.step)
        length = state.values["recipe"]["optimise"]["steps"]
        if length < recipe.optimise.steps:
            kept["extended"].append(length)
            watcher.on_news(_extension(state, length, recipe.optimise))
        watcher.on_news(_resumption(state, recipe, world))
    learner = _make_learner(recipe, dataset, state, kept, world)
    if state and state.step == recipe.optimise.steps and from_main((folder / RECORD_NAME).exists, world):
        watcher.on_news("the run is finished: it is measured again, and nothing is written")
        return validate(learner.result, validation, world=world, on_photo=watcher.on_photo)
    if recipe.optimise.precision == "bfloat16" and not has_bfloat16(world.device):
        watcher.on_news(IMITATED)
    if not state and kept["started"].get("dropped"):
        watcher.on_news(_dropped(kept["started"], learner.model))
    for difference in () if state else kept["started"].get("differs", ()):
        watcher.on_news(f"the start differs from this model: {difference}")
    record = describe_run(
        recipe, started=kept["started"], photos=len(dataset), data=kept["data"], processes=world.size
    )
    record["resumed after"], record["extended from"] = kept["resumed"], kept["extended"]
    if recipe.distil:
        dataset.teachers, record["taught by"] = prepare_teachers(
            recipe.distil,
            dataset,
            student=learner.model,
            data=kept["data"],
            world=world,
            on_news=watcher.on_news,
        )
    first_step = state.step if state else 0
    if world.is_main:
        write_recipe(folder, recipe)
    with Keeper(
        recipe,
        folder,
        learner=learner,
        validation=validation,
        record=record,
        kept=kept,
        first_step=first_step,
        world=world,
        watcher=watcher,
        tensorboard=tensorboard,
    ) as keeper:
        if first_step < recipe.optimise.steps:
            _updates(recipe, learner, dataset, keeper, first_step=first_step, world=world)
        if recipe.optimise.calibrate_norms and world.is_main:
            measure_statistics(learner.result, _spread_over(dataset, recipe.optimise.calibrate_norms))
        return keeper.finish()


def _spread_over(dataset: SegmentationDataset, count: int) -> Iterator[np.ndarray]:
    """Whole photos, at most that many, from all over the data set."""
    for index in np.linspace(0, len(dataset) - 1, min(count, len(dataset)), dtype=int).tolist():
        yield dataset.load(index)[0]


def _look_first(
    recipe: Recipe, dataset: SegmentationDataset, validation: SegmentationDataset, watcher: Watcher
) -> None:
    """Find what is wrong before the first step rather than after the last; it takes seconds, see `look_at`."""
    for data, split, scored in (
        (dataset, recipe.data.train, False),
        (validation, recipe.data.val, True),
    ):
        look = look_at(data.source, photos=scored)
        warn_of_labels(data.source, look, split, scored=scored)
        if scored and look.samples < len(data):
            watcher.on_news(
                f"{look.samples} of {len(data)} photos and masks of {split} were read before the first step; the "
                "others are read when it is measured"
            )


def _resumption(state: TrainingState, recipe: Recipe, world: World) -> str:
    before = len(state.values["random"])
    other = f"; {world.size} processes instead of {before}: the same photos, other random numbers"
    line = f"goes on after step {state.step} of {recipe.optimise.steps}"
    return line + (other if world.size != before else "")


def _extension(state: TrainingState, length: int, settings: OptimiseRecipe) -> str:
    """What becomes of the schedule of a run of `length` steps."""
    before, now = (
        scheduled_rate(step, settings.schedule, base=settings.learning_rate, total_steps=total)
        for step, total in ((max(state.step - 1, 0), length), (state.step, settings.steps))
    )
    return (
        f"extended from {length} to {settings.steps} steps: the schedule ({settings.schedule.policy}) is that of "
        f"{settings.steps} steps from here on, so the learning rate goes from {before:.3g} to {now:.3g}"
    )


def _dropped(started: dict[str, Any], model: DeepLab) -> str:
    """What of the start's weights this model has no place for."""
    dropped, random = started["dropped"], started["kept random"]
    named = ", ".join(dropped[:NAMES_SHOWN]) + (", ..." if len(dropped) > NAMES_SHOWN else "")
    return (
        f"the start's {len(dropped)} tensors {named} are dropped: this model, of {len(model.labels.classes)} classes, "
        f"has none of their shapes; {started['filled']} are taken, and {len(random)} of its own begin random"
    )


def _make_learner(
    recipe: Recipe,
    dataset: SegmentationDataset,
    state: TrainingState | None,
    kept: dict[str, Any],
    world: World,
) -> Learner:
    """The learner at its start, or as it was at the checkpoint; notes in `kept` where weights came from."""
    seed_all(recipe.seed)
    model = DeepLab(recipe.model.config(len(recipe.data.classes)), LabelSpec.named(recipe.data.classes))
    if not state:
        kept["started"] = start_from(model, recipe.start)
        if norms := kept["started"].get("norms put back"):
            settle(model, norms, _spread_over(dataset, SETTLED_BY))
    # each process drops out other units; the main one goes on as if it were alone
    if world.rank:
        seed_all(recipe.seed + 1_000_003 * world.rank)
    learner = make_learner(model, recipe.optimise, world, auxiliary=recipe.loss.auxiliary > 0)
    if state:
        go_on_from(state, learner, world)
    return learner


def _updates(
    recipe: Recipe,
    learner: Learner,
    dataset: SegmentationDataset,
    keeper: Keeper,
    *,
    first_step: int,
    world: World,
) -> None:
    """All updates from `first_step` on."""
    settings = recipe.optimise
    samples = with_copy_paste(dataset, recipe.augment, classes=recipe.data.classes)
    sampler = UpdateSampler(
        len(dataset),
        seed=recipe.seed,
        batch_size=settings.batch_size,
        accumulate=settings.accumulate,
        first_step=first_step,
        steps=settings.steps,
        world=world,
    )

    def describe(step: int, parts: Sequence[Batch]) -> str:
        files = ", ".join(dataset.source.files(index)[0] for index, _ in sampler.keys_of_step(step))
        saved = save_batch(keeper.folder / f"batch-{step}.safetensors", parts)
        return f"{files}; as it was after augmentation, saved in {saved}"

    def before_step(step: int) -> None:
        announce_progress(learner.model, step, settings.steps)
        after = settings.fake_quantise_after
        if after is not None and step == max(after, first_step):
            fake_quantise(learner.model)

    train_steps(
        make_objective(learner, settings, recipe.loss, world, distil=recipe.distil),
        load_batches(samples, sampler, workers=recipe.workers, device=world.device),
        optimiser=learner.optimiser,
        schedule=lambda step: scheduled_rate(
            step, settings.schedule, base=settings.learning_rate, total_steps=settings.steps
        ),
        first_step=first_step,
        accumulate=settings.accumulate,
        clip_norm=settings.clip_norm,
        scaler=learner.scaler,
        world=world,
        channels_last=settings.channels_last,
        before_step=before_step,
        on_step=keeper.after_step,
        describe=describe,
    )
