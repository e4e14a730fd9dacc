"""Training checkpoints: one safetensors file from which a run goes on to the very same weights.

It holds the weights, their moving average, the optimiser's state, the random generators of every process, the
number of updates done (and with it the position in the data and the schedule), the best validation so
far, and the recipe. It is always a whole one: every tensor has a checksum, and so has the list of them with all
else that is said. The one before is kept, and used where the last one is damaged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import nn

from deeplab.errors import UserError
from deeplab.system.reading import foreign, read_bytes
from deeplab.system.writing import whole_file
from deeplab.train.random_state import RandomState

CHECKPOINT_NAME = "checkpoint.safetensors"
BEFORE_NAME = "checkpoint-before.safetensors"
METADATA_KEY, CHECKSUM_KEY = "deeplab.training", "deeplab.sha256"
FORMAT = 3
START_ANEW = "train into another folder, or start anew here with --overwrite"
# may change between the two halves of a run without changing its result
FREE_KEYS = ("data.root", "workers")
STEPS_KEY = "optimise.steps"


class TrainingState(NamedTuple):
    """Everything that a run goes on from.

    Attributes:
        step: updates done.
        tensors: by name: model/..., average/..., auxiliary/..., optimiser/..., random/RANK/...
        values: JSON values: `recipe`, `data` (fingerprint), `best`, `random`, `resumed`, `extended`, `scaler`,
            `seconds`.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


def write_checkpoint(folder: Path, state: TrainingState) -> None:
    """Write `checkpoint.safetensors` into `folder`, complete or not at all; the one there becomes the one before.

    Raises:
        UserError: it cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.tensors.items()}
    checksums = {name: _checksum(value) for name, value in tensors.items()}
    description = json.dumps({"format": FORMAT, "step": state.step, **state.values, "checksums": checksums})
    metadata = {METADATA_KEY: description, CHECKSUM_KEY: hashlib.sha256(description.encode()).hexdigest()}
    with whole_file(folder / CHECKPOINT_NAME, before=folder / BEFORE_NAME) as file:
        file.write(to_bytes(tensors, metadata=metadata))


def read_checkpoint(folder: Path) -> tuple[bytes, list[str]] | None:
    """The last whole checkpoint in `folder` as it is stored, and what is wrong with a later one; None for none.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    faults: list[UserError] = []
    for name in (CHECKPOINT_NAME, BEFORE_NAME):
        path = folder / name
        if not path.exists():
            continue
        try:
            stored = read_bytes(path)
            step = parse_checkpoint(stored, str(path)).step
        except UserError as error:
            faults.append(error)
            continue
        if name == BEFORE_NAME and not faults:
            faults.append(UserError("is missing", file=folder / CHECKPOINT_NAME))
        return stored, [f"{fault}; the one before is used, of step {step}" for fault in faults]
    if faults:
        raise faults[0]
    return None


def parse_checkpoint(stored: bytes, source: str) -> TrainingState:
    """The state in a stored checkpoint.

    Raises:
        UserError: not one of ours, of another version, or not as it was written; it names `source`.
    """
    with foreign(source, "this is no whole training checkpoint", fix=START_ANEW):
        tensors = from_bytes(stored)
        size = int.from_bytes(stored[:8], "little")
        metadata = json.loads(stored[8 : 8 + size])["__metadata__"]
        description = metadata[METADATA_KEY]
        values = json.loads(description)
        if values.pop("format") != FORMAT:
            raise UserError("was written by another version", fix="resume with that one, or start anew")
        if hashlib.sha256(description.encode()).hexdigest() != metadata[CHECKSUM_KEY]:
            raise UserError("its description is not what was written: it is damaged", fix=START_ANEW)
        checksums = values.pop("checksums")
        changed = sorted(checksums.keys() ^ tensors.keys())
        changed += [
            name
            for name, value in tensors.items()
            if name in checksums and _checksum(value) != checksums[name]
        ]
        changed = changed or [name for name, value in tensors.items() if not torch.isfinite(value).all()]
        if changed:
            raise UserError(
                f"{changed[0]} is missing, is not what was written, or is NaN: it is damaged", fix=START_ANEW
            )
        return TrainingState(values.pop("step"), tensors, values)


def _checksum(value: torch.Tensor) -> str:
    """Of a tensor's type, shape and bytes."""
    digest = hashlib.sha256(f"{value.dtype} {list(value.shape)}".encode())
    digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def collect_tensors(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    average: nn.Module | None,
    auxiliary: nn.Module | None,
    random: list[RandomState],
) -> dict[str, torch.Tensor]:
    """All tensors of a `TrainingState` by name."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average/{name}": value for name, value in average.state_dict().items()}
    if auxiliary is not None:
        tensors |= {f"auxiliary/{name}": value for name, value in auxiliary.state_dict().items()}
    names = {id(parameter): name for name, parameter in _learning(model, auxiliary)}
    for parameter, state in optimiser.state.items():
        for key, value in state.items():
            if value is not None:
                tensors[f"optimiser/{names[id(parameter)]}/{key}"] = torch.as_tensor(value)
    for rank, state in enumerate(random):
        tensors |= {f"random/{rank}/{name}": value for name, value in state.tensors.items()}
    return tensors


def fill(
    state: TrainingState,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    average: nn.Module | None,
    auxiliary: nn.Module | None,
) -> None:
    """Put weights, moving average, auxiliary head and the optimiser's state back.

    Raises:
        UserError: they are of another model or optimiser.
    """
    for prefix, module in (("model", model), ("average", average), ("auxiliary", auxiliary)):
        if module is not None:
            given = part_of(state.tensors, prefix)
            _refuse_misfit(prefix, given, {name: value.shape for name, value in module.state_dict().items()})
            module.load_state_dict(given)
    stored = part_of(state.tensors, "optimiser")
    numbers = {id(p): n for n, p in enumerate(p for g in optimiser.param_groups for p in g["params"])}
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, parameter in _learning(model, auxiliary):
        own = part_of(stored, name)
        if own:
            # AdamW's count of steps is a number, all else is as the parameter
            shapes = {key: torch.Size() if key == "step" else parameter.shape for key in own}
            _refuse_misfit(f"optimiser/{name}", own, shapes)
            states[numbers[id(parameter)]] = {
                key: _laid_out_as(parameter, value) for key, value in own.items()
            }
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})


def _learning(model: nn.Module, auxiliary: nn.Module | None) -> list[tuple[str, nn.Parameter]]:
    """Every parameter that an optimiser may know, by a name of its own."""
    beside = [] if auxiliary is None else auxiliary.named_parameters(prefix="auxiliary")
    return [*model.named_parameters(), *beside]


def _refuse_misfit(prefix: str, given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Size]) -> None:
    wrong = sorted(given.keys() ^ wanted.keys())
    wrong += [name for name, value in given.items() if name in wanted and value.shape != wanted[name]]
    if wrong:
        raise UserError(
            f"{prefix}/{wrong[0]} is missing, or of another shape than in this run",
            fix=START_ANEW,
            file=CHECKPOINT_NAME,
        )


def _laid_out_as(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """In the parameter's memory layout, as in an unbroken run: kernels may round otherwise in another."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def random_of_rank(state: TrainingState, rank: int) -> RandomState | None:
    """The generators of process `rank`; None if the run had fewer processes."""
    if rank >= len(state.values["random"]):
        return None
    return RandomState(part_of(state.tensors, f"random/{rank}"), state.values["random"][rank])


def part_of(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors called PREFIX/NAME, by NAME."""
    return {
        name.removeprefix(f"{prefix}/"): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}/")
    }


def recipe_fingerprint(recipe: Mapping[str, Any]) -> str:
    """sha256 of a recipe's JSON values, but for those that do not change the result."""
    kept = {key: value for key, value in flat(recipe).items() if key not in FREE_KEYS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def refuse_changes(state: TrainingState, recipe: Mapping[str, Any], data: str, source: str) -> None:
    """See that a run goes on as it began; it may become longer.

    Raises:
        UserError: the recipe or the data changed; it names each key with both values.
    """
    before, now = flat(state.values["recipe"]), flat(recipe)
    changes = [
        f"{key} is {now.get(key)!r}, the run has {before.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if key not in FREE_KEYS and before.get(key) != now.get(key)
        if key != STEPS_KEY or now[key] < before[key]
    ]
    if changes:
        raise UserError(
            f"{source} was made by another recipe: {'; '.join(changes)}",
            fix="resume with the old values, or train into another folder",
        )
    if data != state.values["data"]:
        raise UserError(
            f"{source} was trained on other files: names or sizes of the training data changed",
            fix="put the data back, or train into another folder",
        )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        nested = flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else None
        result |= nested if nested is not None else {f"{prefix}{key}": value}
    return result
