"""What makes a run repeatable: recipe, versions, data, revision and command, as files in its folder."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from deeplab import __version__
from deeplab.data.source import Source
from deeplab.system.writing import write_whole
from deeplab.train.recipe import Recipe
from deeplab.train.run_folder.checkpointing import recipe_fingerprint

RECIPE_NAME, RECORD_NAME = "recipe.yaml", "run.json"


def describe_run(
    recipe: Recipe, *, started: dict[str, Any], photos: int, data: str, processes: int
) -> dict[str, Any]:
    """The record of a run at its start, JSON values; the result joins it at the end.

    Args:
        started: what `start_from` says.
        photos: number of training photos.
        data: their `data_fingerprint`.
        processes: that train together.
    """
    values = recipe.model_dump(mode="json", exclude={"data": {"root"}})
    return {
        "recipe": values,
        "recipe sha256": recipe_fingerprint(values),
        "seed": recipe.seed,
        "start": started,
        "training photos": photos,
        "data sha256": data,
        "processes": processes,
        "command": sys.argv,
        "git revision": git_revision(),
        "versions": {
            "deeplab": __version__,
            **{name: version(name) for name in ("torch", "numpy", "pillow")},
        },
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def data_fingerprint(source: Source) -> str:
    """sha256 over the names and sizes of a split's files, in order; their folder does not matter."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        for file in source.files(index):
            digest.update(f"{Path(file).name} {_size(file)}\n".encode())
    return digest.hexdigest()


def git_revision() -> str | None:
    """The revision of the working folder, with "+changes" if it differs from it; None outside git."""
    try:
        revision = _git("rev-parse", "HEAD")
        return revision + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """`recipe.yaml` in `folder`, with every resolved value: a recipe that repeats the run."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_whole(folder / RECIPE_NAME, text)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """`run.json` in `folder`."""
    write_whole(folder / RECORD_NAME, json.dumps(record, indent=2) + "\n")


def _size(file: str) -> int:
    """Bytes of a file, or of the shard in SHARD:MEMBER; 0 for what is no file here."""
    candidates = (file, file.rpartition(":")[0])
    return next((Path(name).stat().st_size for name in candidates if name and Path(name).is_file()), 0)


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], check=True, capture_output=True, text=True, timeout=10
    ).stdout.strip()
