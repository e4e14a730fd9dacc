"""A recipe: everything a training run needs, as a checked YAML file.

Some come with the package and are called by name. `extends: FILE` takes all of another, from which this one's keys
differ; single keys are overridden as `key.sub=value`. A typo is an error that names the nearest right key.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from deeplab.config import Architecture, DeepLabConfig, Strict, parse_config
from deeplab.data.augment_recipe import AugmentRecipe
from deeplab.data.recipe import DataRecipe
from deeplab.errors import MOST_PROCESSES, UserError
from deeplab.system.reading import cut, foreign, read_text, shown
from deeplab.system.yaml_settings import parse_yaml
from deeplab.train.recipe.distil import DistilRecipe
from deeplab.train.recipe.loss import LossRecipe
from deeplab.train.recipe.optimise import OptimiseRecipe

FOLDER = Path(str(resources.files("deeplab") / "recipes"))


class ModelRecipe(Architecture):
    """All that `DeepLabConfig` says, without the number of classes, which the data give."""

    def config(self, num_classes: int) -> DeepLabConfig:
        """The architecture for that many classes.

        Raises:
            UserError: parts that do not go with so many.
        """
        values = {"num_classes": num_classes, **self.model_dump()}
        return parse_config(DeepLabConfig, values, f"model, for {num_classes} classes")


class Recipe(Strict):
    """One training run."""

    name: str
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    data: DataRecipe
    model: ModelRecipe
    start: str | None = None
    augment: AugmentRecipe = AugmentRecipe()
    loss: LossRecipe = LossRecipe()
    distil: DistilRecipe | None = None
    optimise: OptimiseRecipe
    workers: Annotated[int, Field(ge=0, le=MOST_PROCESSES)] = 1

    @model_validator(mode="after")
    def _outputs_exist(self) -> Self:
        missing = sorted(set(self.loss.outputs) - set(self.model.extra_outputs))
        if missing:
            has = list(self.model.extra_outputs)
            raise ValueError(f"loss.outputs names {missing[0]!r}; model.extra_outputs has {has}")
        return self

    @model_validator(mode="after")
    def _middle_can_be_seen(self) -> Self:
        if self.loss.auxiliary and self.optimise.compile:
            raise ValueError(
                "loss.auxiliary looks into the network, which optimise.compile closes; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _teacher_sees_the_same(self) -> Self:
        moved = [name for name in ("rotate", "copy_paste") if getattr(self.augment, name)]
        if self.distil and moved:
            raise ValueError(
                f"distil: what a teacher said of a photo is not turned or pasted; leave out augment.{moved[0]}"
            )
        return self


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package, in order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def locate_recipe(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a recipe that comes with the package, by name, or a path as it is.

    Args:
        name_or_path: a string that ends in .yaml or has a slash is a path, and so is a `Path`.

    Raises:
        UserError: no such name; it says the nearest ones.
    """
    path = Path(name_or_path)
    if not isinstance(name_or_path, str) or path.suffix == ".yaml" or path.name != name_or_path:
        return path
    names = recipe_names()
    if name_or_path not in names:
        near = difflib.get_close_matches(name_or_path, names, n=3)
        raise UserError(
            f"no recipe {shown(name_or_path)}" + (f"; did you mean {' or '.join(near)}?" if near else ""),
            allowed="a name that deeplab recipes lists, or a path that ends in .yaml or has a slash",
        )
    return FOLDER / f"{name_or_path}.yaml"


def read_recipe(name_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        name_or_path: see `locate_recipe`.
        overrides: `key.sub=value` words; values are YAML.

    Raises:
        UserError: unreadable file, wrong YAML, no folder of data, unknown key, or value of a wrong kind.
    """
    path = locate_recipe(name_or_path)
    values = recipe_keys(path)
    with foreign(path, "does not go with the overrides"):
        for override in overrides:
            _override(values, override)
    data = values.setdefault("data", {})
    if isinstance(data, dict) and data.get("root") is None:
        raise UserError(
            "data.root is missing", fix="name the folder of your photos, as data.root=FOLDER", file=path
        )
    return parse_config(Recipe, values, str(path))


def recipe_keys(path: Path, *, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's keys, unchecked, merged into those of the file that it extends.

    Raises:
        UserError: unreadable file, wrong YAML, or files that extend each other.
    """
    with foreign(path, "cannot be read as a recipe", fix="correct that place"):
        values = parse_yaml(read_text(path))
    if not isinstance(values, dict):
        raise UserError(f"{path} holds {type(values).__name__}, a recipe is a mapping of keys to values")
    if "extends" not in values:
        return values
    base, seen = values.pop("extends"), (*extended_by, path.resolve())
    if not isinstance(base, str):
        raise UserError(
            f"extends = {shown(base)}", allowed="a recipe's name, or a file beside this one", file=path
        )
    # beside the file that says it, wherever the command is called; a name is one of the package's everywhere
    with foreign(path, "extends what is no recipe"):
        located = path.parent / locate_recipe(base)
    if located.resolve() in seen:
        raise UserError(
            f"extends = {shown(base)} leads back to a recipe that extends this one; leave it out", file=path
        )
    return _merged(recipe_keys(located, extended_by=seen), values)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, key by key at every depth; lists and all other values are replaced."""
    both = {
        key: _merged(base[key], value)
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return base | changes | both


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r} is not of the form key.sub=value, like optimise.steps=100")
    *parents, leaf = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"override {override!r}: {parent} holds a value, not keys")
    with foreign(
        f"override {cut(override)!r}", "its value is not YAML", fix="correct it, or set it in quotes"
    ):
        values[leaf] = parse_yaml(text)
