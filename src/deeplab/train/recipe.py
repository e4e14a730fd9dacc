"""A recipe: everything a training run needs, as a checked YAML file.

`recipes/*.yaml` are read with `read_recipe`; single keys are overridden as `key.sub=value`. A typo is an
error that names the nearest right key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, create_model, model_validator

from deeplab.config import DeepLabConfig, Strict, parse_config
from deeplab.data.augment_recipe import AugmentRecipe
from deeplab.data.recipe import DataRecipe
from deeplab.errors import UserError
from deeplab.train.loss_recipe import LossRecipe
from deeplab.train.optimise_recipe import OptimiseRecipe


class Architecture(Strict):
    """What `ModelRecipe` can do beside holding `DeepLabConfig`'s keys."""

    def config(self, num_classes: int) -> DeepLabConfig:
        """The architecture for that many classes."""
        return DeepLabConfig(num_classes=num_classes, **self.model_dump())


# all that DeepLabConfig says, without the number of classes, which the data give
ModelRecipe = create_model(
    "ModelRecipe",
    __base__=Architecture,
    __module__=__name__,
    **{
        name: (field.annotation, field)
        for name, field in DeepLabConfig.model_fields.items()
        if name != "num_classes"
    },
)


class Recipe(Strict):
    """One training run."""

    name: str
    seed: int = 0
    data: DataRecipe
    model: ModelRecipe
    start: str | None = None
    augment: AugmentRecipe = AugmentRecipe()
    loss: LossRecipe = LossRecipe()
    optimise: OptimiseRecipe
    workers: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _outputs_exist(self) -> Self:
        missing = sorted(set(self.loss.outputs) - set(self.model.extra_outputs))
        if missing:
            has = list(self.model.extra_outputs)
            raise ValueError(f"loss.outputs names {missing[0]!r}; model.extra_outputs has {has}")
        return self


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a YAML file.
        overrides: `key.sub=value` words; values are YAML.

    Raises:
        UserError: unreadable file, wrong YAML, unknown key, or value of a wrong kind.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as a recipe: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds {type(values).__name__}, a recipe is a mapping of keys to values")
    for override in overrides:
        _override(values, override)
    return parse_config(Recipe, values, str(path))


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r} is not of the form key.sub=value, like optimise.steps=100")
    *parents, leaf = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"override {override!r}: {parent} holds a value, not keys")
    try:
        values[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: {text!r} is not YAML: {error}") from None
