"""Mistakes in a config, told to the person who wrote it: key, value found, what is allowed."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def explain_validation(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """One line per mistake, with the key's path, the value found, and for typos the nearest key."""
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"]) or model.__name__
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            known = _keys_beside(model, item["loc"])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            message = f"unknown key; {hint}"
        lines.append(f"{source}: {path} = {item['input']!r}: {message}")
    return "\n".join(lines)


def _keys_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    models = [model]
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        fields = [candidate.model_fields[part] for candidate in models if part in candidate.model_fields]
        if fields:
            models = [nested for field in fields for nested in _models_in(field.annotation)]
        else:
            # not a key but the tag that chose one of several models: a branch's op
            models = [each for each in models if any(f.default == part for f in each.model_fields.values())]
    return [key for candidate in models for key in candidate.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]
