"""A recipe: everything a training run needs, as a checked YAML file.

`recipes/*.yaml` are read with `read_recipe`; single keys are overridden as `key.sub=value`. A typo is an
error that names the nearest right key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from deeplab.config import (
    BackboneConfig,
    ContextConfig,
    DecoderConfig,
    DeepLabConfig,
    NonNegative,
    NormConfig,
    PixelConfig,
    Positive,
    ResizeRule,
    Share,
    Strict,
    parse_config,
)
from deeplab.data.augment_recipe import AugmentRecipe
from deeplab.data.recipe import DataRecipe
from deeplab.errors import UserError
from deeplab.train.loss_recipe import LossRecipe


class ModelRecipe(Strict):
    """`DeepLabConfig` without the number of classes, which the data give."""

    backbone: BackboneConfig
    context: ContextConfig = ContextConfig()
    decoder: DecoderConfig | None = None
    classifier_kernel: Positive = 1
    classifier_rates: tuple[Positive, ...] = ()
    output_stride: Literal[4, 8, 16, 32] = 16
    head_norm: NormConfig = NormConfig()
    resize: ResizeRule = "align_corners"
    pixels: PixelConfig = PixelConfig()

    def config(self, num_classes: int) -> DeepLabConfig:
        """The architecture for that many classes."""
        return DeepLabConfig(num_classes=num_classes, **self.model_dump())


class OptimiseRecipe(Strict):
    """SGD with momentum under a poly learning rate (v2 section 4.1, v3 section 4.1).

    head_multiplier: factor on the learning rate of everything but the backbone.
    warmup_steps: linear rise from zero.
    precision: of the forward and backward pass; weights and updates are float32.
    """

    steps: Positive
    batch_size: Positive = 16
    learning_rate: NonNegative = 0.007
    head_multiplier: NonNegative = 1.0
    power: NonNegative = 0.9
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    momentum: Share = 0.9
    weight_decay: NonNegative = 4e-5
    precision: Literal["float32", "bfloat16"] = "float32"


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
    def _several_classes(self) -> Self:
        if len(self.data.classes) < 2:
            raise ValueError("data.classes needs at least two names; add 'background'")
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
