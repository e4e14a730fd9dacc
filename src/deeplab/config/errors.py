"""Mistakes in a config, told to the person who wrote it: key, value found, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from deeplab.system.reading import shown

# of the mistakes that are told at once
MOST = 20
MISSING = object()


def explain_validation(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """One line per mistake, with the key's path, the value found, and for typos the nearest key.

    Of a value that holds keys of its own none is shown: what is wrong with several keys together names them. Where a
    name chose one of several families of keys, the line names the family and says what it has.
    """
    lines = []
    found = error.errors(include_url=False)
    for item in found[:MOST]:
        kind, value = item["type"], item["input"]
        path, models, beside, family = _place(model, item["loc"])
        message = f"{family}: " * bool(family) + item["msg"].removeprefix("Value error, ")
        if kind == "missing":
            # its input is all that stands beside it
            value, message = MISSING, f"is missing{f', which {family} has to have' if family else ''}"
        elif kind == "extra_forbidden":
            key, known = path[-1], [key for each in beside for key in each.model_fields]
            unknown = f"{family} has no key {key!r}" if family else "unknown key"
            hint = _nearest(key, known)
            # a family's keys are said in any case: the key may be another family's
            message = f"{unknown}{hint}" + (f"; known keys: {', '.join(known)}" if family or not hint else "")
        elif kind in ("model_type", "model_attributes_type"):
            # what every family has
            keys = [key for key in models[0].model_fields if all(key in each.model_fields for each in models)]
            message = f"here stand keys with values of their own; known keys: {', '.join(keys)}"
        elif kind in ("union_tag_invalid", "union_tag_not_found"):
            # pydantic names the key, or the function that reads it
            key = item["ctx"]["discriminator"].strip("_()'")
            fields = [each.model_fields[key] for each in models]
            allowed = [tag for field in fields for tag in get_args(field.annotation) or field.examples or ()]
            path, value = [*path, key], item["ctx"].get("tag", MISSING)
            wrong = "is missing" if value is MISSING else f"no such {key}{_nearest(str(value), allowed)}"
            message = f"{wrong}; allowed: {', '.join(allowed)}"
        place = ".".join(path)
        if value is MISSING:
            message = f"{place} {message}"
        elif not isinstance(value, dict):
            message = f"{place or model.__name__} = {shown(value)}: {message}"
        elif place:
            message = f"{place}: {message}"
        lines.append(f"{source}: {message}")
    return "\n".join(
        [*lines, f"{source}: {len(found) - MOST} more like these"] if len(found) > MOST else lines
    )


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class _Place(NamedTuple):
    """Where a mistake is: the keys that the user wrote; the models that may stand there; the models that hold
    the last key, and the tag that chose them ('' where there was no choice)."""

    path: list[str]
    models: list[type[BaseModel]]
    beside: list[type[BaseModel]]
    family: str


def _place(model: type[BaseModel], location: tuple[int | str, ...]) -> _Place:
    path, models, beside = list[str](), [model], [model]
    family = chosen = ""
    for part in location:
        if isinstance(part, int):
            path.append(str(part))
        elif len(models) > 1:
            # not a key but the tag that chose one of several models
            tagged = [each for each in models if part in _tags(each)]
            beside = models = tagged or models
            family = chosen = part if tagged else ""
        else:
            path.append(part)
            beside, family, chosen = models, chosen, ""
            fields = [each.model_fields[part] for each in models if part in each.model_fields]
            models = [nested for field in fields for nested in _models_in(field.annotation)]
    return _Place(path, models, beside, family)


def _tags(model: type[BaseModel]) -> list[str]:
    literals = [tag for field in model.model_fields.values() for tag in get_args(field.annotation)]
    return [*literals, model.__name__.removesuffix("Config").lower()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]
